"""The explainer `llm-v1`: a judge puts a unit into one sentence, from train examples across its activation intervals.

After the paper's method (Towards Monosemanticity, 'Automated interpretability'; Scaling Monosemanticity, 'Features vs. neurons'):
the strongest examples, two from each lower interval, and texts without the unit, half of them with its most frequent token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sae_pipeline.features.intervals import interval_of
from sae_pipeline.interpret.answers import ExplanationAnswer
from sae_pipeline.interpret.marked_text import escape, marked
from sae_pipeline.interpret.prompts import load_prompt
from sae_pipeline.interpret.protocols import Explanation
from sae_pipeline.interpret.token_stats import MIN_EXAMPLES
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import generator, top_token
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.judge.reply import Reply
from sae_pipeline.judge.request import Request
from sae_pipeline.tables.columns import N_INTERVALS

METHOD = "llm-v1"
PROMPT = "explain-v1"
# With the tokens that the feature promotes: another prompt, so another method.
METHOD_LOGITS = "llm-logits-v1"
PROMPT_LOGITS = "explain-logits-v1"
N_PROMOTED = 10
N_TOP, N_PER_INTERVAL, N_INACTIVE = 10, 2, 6
REACH = 16
MAX_TOKENS = 600


@dataclass(frozen=True)
class LlmExplainer:
    """Explainer for the units of one kind. `asked_by` names the stage and size in the ledger."""

    tokens: TokenTable
    units: Units
    judge: AskingJudge
    asked_by: str
    seed: int
    promoted: Mapping[int, Sequence[str]] | None = None
    """By column: the tokens that the unit promotes (empty for controls, which have none); None: not to be shown."""

    @property
    def method(self) -> str:
        """Which of the two prompts is asked."""
        return METHOD if self.promoted is None else METHOD_LOGITS

    @property
    def prompt(self) -> str:
        """Its name and version."""
        return PROMPT if self.promoted is None else PROMPT_LOGITS

    def explain(self, unit_ids: Sequence[int]) -> list[Explanation]:
        """One explanation per unit, in order; rare units get `too_few_examples` and are not asked about."""
        column_of = {int(unit): column for column, unit in enumerate(self.units.ids)}
        return explain_together(self.judge, [(self, [column_of[unit] for unit in unit_ids])])[0]

    def can_ask(self, column: int) -> bool:
        """Whether the unit has enough train activations to say anything about it."""
        return int(self.units.train.count_U[column]) >= MIN_EXAMPLES

    def request(self, column: int) -> Request:
        """The question about one unit. Deterministic: the same artefacts and seed give the same bytes."""
        random = generator(self.seed, METHOD, self.units, column)
        examples = [self._active(column, token, interval) for token, interval in self._active_tokens(column, random)]
        inactive = [f"<inactive>{self._text(token)}</inactive>" for token in self._inactive_tokens(column, random)]
        prompt = load_prompt(self.prompt)
        subject = f"{self.units.unit} {int(self.units.ids[column])}"
        hint: list[str] = []
        if self.promoted is not None and (tokens := self.promoted.get(column)):
            hint = [f"<promoted>{', '.join(escape(repr(token)) for token in tokens[:N_PROMOTED])}</promoted>"]
        user = "\n".join(["<excerpts>", *examples, *inactive, "</excerpts>", *hint])
        return Request(self.asked_by, subject, prompt.name, prompt.sha, prompt.text, user, ExplanationAnswer, MAX_TOKENS)

    def explanation(self, column: int, reply: Reply | None) -> Explanation:
        """What a reply says of a unit; None stands for a unit that was not asked about."""
        unit, unit_id, n = self.units.unit, int(self.units.ids[column]), int(self.units.train.count_U[column])
        if reply is None:
            none = (None, None, None)
            asked = self.judge.settings
            return Explanation(
                unit, unit_id, self.method, *none, "too_few_examples", n, asked.model, plumbing=asked.plumbing
            )  # fmt: skip
        answer: ExplanationAnswer | None = reply.value
        text = " ".join(answer.explanation.split()) if answer else ""
        status = "invalid" if answer and not text else reply.status
        return Explanation(
            unit, unit_id, self.method, text or None, answer.kind if answer and text else None, None, status, n,
            self.judge.settings.model, load_prompt(self.prompt).sha, reply.cost_usd,
            answer.confidence if answer and text else None, self.judge.settings.plumbing,
        )  # fmt: skip

    def _active_tokens(self, column: int, random: np.random.Generator) -> list[tuple[int, int]]:
        """(token index, interval) of the examples: the strongest of distinct documents, then some of every lower interval."""
        token_index, value = self.units.train.of(column)
        interval = interval_of(value, float(value.max()))
        chosen: dict[int, int] = {}
        documents: set[int] = set()
        for row in np.argsort(-value, kind="stable").tolist():
            document = int(self.tokens.doc_id_N[token_index[row]])
            if document not in documents:
                documents.add(document)
                chosen[int(token_index[row])] = int(interval[row])
            if len(chosen) == N_TOP:
                break
        for number in range(N_INTERVALS, 0, -1):
            inside = np.flatnonzero(interval == number)
            inside = inside[~np.isin(token_index[inside], list(chosen))]
            for row in random.choice(inside, min(N_PER_INTERVAL, len(inside)), replace=False).tolist():
                chosen[int(token_index[row])] = number
        return list(chosen.items())

    def _inactive_tokens(self, column: int, random: np.random.Generator) -> list[int]:
        """Train tokens whose surroundings are free of the unit: half with its most frequent token, half any."""
        active, _ = self.units.train.of(column)
        free_N = self.tokens.train_N.copy()
        near = active[:, None] + np.arange(-REACH, REACH + 1)
        free_N[np.clip(near, 0, self.tokens.n_tokens - 1)] = False
        free = np.flatnonzero(free_N)
        same = free[self.tokens.token_id_N[free] == top_token(self.tokens, self.units.train, column)]
        n = N_INACTIVE // 2
        return [int(token) for pool in (same, free) for token in random.choice(pool, min(n, len(pool)), replace=False)]

    def _active(self, column: int, token: int, interval: int) -> str:
        active, value = self.units.train.of(column)
        # Only tokens of at least half of the example's strength are marked: the sentence is about these.
        first, last = self._window(token)
        rows = np.flatnonzero((active >= first) & (active <= last))
        strongest = float(value[active == token][0])
        marks = set(active[rows[value[rows] >= 0.5 * strongest]].tolist())
        return f'<example strength="{interval}">{marked(self.tokens, first, last, marks)}</example>'

    def _text(self, token: int) -> str:
        return marked(self.tokens, *self._window(token))

    def _window(self, token: int) -> tuple[int, int]:
        block = token - token % self.tokens.context
        return max(token - REACH, block), min(token + REACH, block + self.tokens.context - 1)


def explain_together(judge: AskingJudge, wanted: Sequence[tuple[LlmExplainer, Sequence[int]]]) -> list[list[Explanation]]:
    """Explanations of the columns of several kinds of unit, asked for all at once (one batch, not one after the other)."""
    asked = [(explainer, column) for explainer, columns in wanted for column in columns if explainer.can_ask(column)]
    replies = judge.ask([explainer.request(column) for explainer, column in asked], "explanations")
    by_unit = {(explainer.units.unit, column): reply for (explainer, column), reply in zip(asked, replies, strict=True)}
    return [
        [explainer.explanation(column, by_unit.get((explainer.units.unit, column))) for column in columns]
        for explainer, columns in wanted
    ]
