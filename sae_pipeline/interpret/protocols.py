"""What an explainer and a scorer are: small protocols, so that another method is another class and nothing else.

Explainers see train examples only, scorers see held-out windows only. A scorer gets an `Explanation` and `ScoredWindow`s; what
was active where, how strongly, and which control arm a window belongs to is not among its arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

UnitKind = Literal["sae_feature", "random_direction", "mlp_neuron", "random_model_feature"]
Control = Literal[
    "none", "baseline", "shuffled", "random_feature", "random_direction", "mlp_neuron", "random_model", "prompt_only"
]
Status = Literal["ok", "refusal", "truncated", "invalid", "error", "budget", "not_run", "too_few_examples"]
Kind = Literal["token", "phrase", "topic", "syntax", "position", "other"]
Confidence = Literal["low", "medium", "high"]

# The arm of a unit that is scored with its own explanation: a unit that is no SAE feature is itself a control.
ARM_OF_UNIT: dict[UnitKind, Control] = {
    "sae_feature": "none", "random_direction": "random_direction", "mlp_neuron": "mlp_neuron",
    "random_model_feature": "random_model",
}  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """What is said of one unit.

    `rule` is the machine-checkable form (JSON, see `rules.py`), None where a method has none. `text` and `kind` are None unless
    `status` is "ok"; `model`, `prompt_sha` and `confidence` are None for methods without a language model. `plumbing`: made by a
    model too small to be believed.
    """

    unit: UnitKind
    unit_id: int
    method: str
    text: str | None
    kind: Kind | None
    rule: str | None
    status: Status
    n_examples: int
    model: str | None = None
    prompt_sha: str | None = None
    cost_usd: float = 0.0
    confidence: Confidence | None = None
    plumbing: bool = False

    @property
    def about_inputs(self) -> str:
        """The text without its logit-effect clause.

        Scorers read this part: controls have no logit effects, and a scorer should not gain or lose by that clause.
        """
        return (self.text or "").split(LOGIT_CLAUSE)[0]


LOGIT_CLAUSE = "; promotes "


@dataclass(frozen=True)
class ScoredWindow:
    """What a scorer may see: the window's token indices and which of them is highlighted."""

    token_index: int
    first: int
    last: int


@dataclass(frozen=True)
class Score:
    """One answer on the 0-3 scale; `value` is None unless `status` is "ok". `evidence` says what the score rests on."""

    value: int | None
    status: Status
    evidence: str | None
    cost_usd: float = 0.0


class Explainer(Protocol):
    """Puts units into words, from train examples only."""

    method: str

    def explain(self, unit_ids: Sequence[int]) -> list[Explanation]:
        """One explanation per unit, in order; rare units get a status, never silence."""
        ...


class Scorer(Protocol):
    """Rates how specific an explanation is for highlighted tokens of held-out windows."""

    method: str

    def score(self, explanation: Explanation, windows: Sequence[ScoredWindow]) -> list[Score]:
        """One score per window, in order."""
        ...
