"""Scorers that ask a judge: the 0-3 rubric, detection and fuzzing. Held-out windows only.

A call carries one explanation and a few windows in seeded random order. What the judge sees is text: activation values,
intervals, kinds of window and control arms are not among the arguments of anything here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from sae_pipeline.interpret.answers import items, ratings, surenesses
from sae_pipeline.interpret.marked_text import escape, marked
from sae_pipeline.interpret.prompts import load_prompt
from sae_pipeline.interpret.protocols import Explanation, Score, ScoredWindow
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.judge.reply import Reply
from sae_pipeline.judge.request import Request

RUBRIC, DETECTION, FUZZING = "rubric-v1", "detection-v1", "fuzzing-v2"
# A sentence of evidence per example is short; a sureness is one digit.
TOKENS_PER_EXAMPLE = {RUBRIC: 80, DETECTION: 20, FUZZING: 20}


@dataclass(frozen=True)
class Item:
    """One window to be judged under one explanation."""

    explanation: Explanation
    window: ScoredWindow


@dataclass(frozen=True)
class WindowJudge:
    """Asks one prompt about many (explanation, window) items at once, a few windows of one explanation per call."""

    tokens: TokenTable
    judge: AskingJudge
    prompt: str
    asked_by: str
    per_call: int
    seed: int

    @property
    def method(self) -> str:
        """The prompt's name and version."""
        return self.prompt

    def score(self, explanation: Explanation, windows: Sequence[ScoredWindow]) -> list[Score]:
        """One score per window, in order."""
        return self.judge_all([[Item(explanation, window) for window in windows]])[0]

    def judge_all(self, asked: Sequence[Sequence[Item]], vote: int = 0) -> list[list[Score]]:
        """One score per item. Each inner sequence is about one explanation.

        Items of an explanation that is not `ok` get its status and are not asked about. A call's cost is shared by its items.
        """
        calls = [(group, rows) for group, mine in enumerate(asked) for rows in self._calls(mine)]
        requests = [self._request([asked[group][row] for row in rows], vote) for group, rows in calls]
        result: list[list[Score]] = [[Score(None, item.explanation.status, None) for item in mine] for mine in asked]
        for (group, rows), reply in zip(calls, self.judge.ask(requests, self.prompt), strict=True):
            for row, score in zip(rows, _scores(reply, len(rows)), strict=True):
                result[group][row] = score
        return result

    def _calls(self, mine: Sequence[Item]) -> list[list[int]]:
        """Rows of each call. The order is drawn from what is shown, so that equal questions are equal requests."""
        if not mine or mine[0].explanation.status != "ok":
            return []
        shown = f"{mine[0].explanation.unit} {mine[0].window.token_index} {len(mine)}"
        seed = int.from_bytes(sha256(shown.encode()).digest()[:8], "little")
        order = np.random.default_rng([self.seed, seed]).permutation(len(mine)).tolist()
        return [order[start : start + self.per_call] for start in range(0, len(order), self.per_call)]

    def _request(self, mine: Sequence[Item], vote: int) -> Request:
        prompt, n = load_prompt(self.prompt), len(mine)
        explanation = mine[0].explanation
        examples = [f'<example number="{i}">{self._shown(item.window)}</example>' for i, item in enumerate(mine, 1)]
        user = "\n".join([f"<description>{escape(explanation.about_inputs)}</description>", *examples])
        answer = ratings(n) if self.prompt == RUBRIC else surenesses(n)
        subject = f"{explanation.unit} {explanation.unit_id}"
        max_tokens = 50 + n * TOKENS_PER_EXAMPLE[self.prompt]
        return Request(self.asked_by, subject, prompt.name, prompt.sha, prompt.text, user, answer, max_tokens, vote)

    def _shown(self, window: ScoredWindow) -> str:
        marks = () if self.prompt == DETECTION else (window.token_index,)
        return marked(self.tokens, window.first, window.last, marks)


def _scores(reply: Reply, n: int) -> list[Score]:
    cost_usd = reply.cost_usd / n
    if reply.value is None:
        return [Score(None, reply.status, None, cost_usd) for _ in range(n)]
    answers = items(reply.value)
    if hasattr(answers[0], "score"):
        return [Score(answer.score, "ok", answer.evidence, cost_usd) for answer in answers]
    return [Score(answer.sure, "ok", None, cost_usd) for answer in answers]


def misplaced(window: ScoredWindow, active: np.ndarray, random: np.random.Generator) -> ScoredWindow | None:
    """The same window with another token highlighted, one that is not in `active` (sorted token indices); None if all are."""
    others = np.setdiff1d(np.arange(window.first, window.last + 1), active)
    others = others[others != window.token_index]
    return replace(window, token_index=int(random.choice(others))) if len(others) else None
