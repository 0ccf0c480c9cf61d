"""What a judge may answer, as pydantic models: their schema goes over the wire, their strict parse is the only way in.

A call that rates n examples has its own model with n required fields, so that a missing, doubled or surplus rating is an
invalid answer and never a shifted one. `evidence` stands before the score: the model quotes before it decides.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

MAX_EXAMPLES_PER_CALL = 20
N_TEXTS = 5


class Answer(BaseModel):
    """Base of all answers: no key beside the declared ones."""

    model_config = ConfigDict(extra="forbid")


class ExplanationAnswer(Answer):
    """One explanation (prompt `explain-v1`)."""

    evidence: str
    explanation: str
    kind: Literal["token", "phrase", "topic", "syntax", "position", "other"]
    confidence: Literal["low", "medium", "high"]


class WrittenTexts(Answer):
    """New texts that fit an explanation (prompt `write-v1`)."""

    text_1: str
    text_2: str
    text_3: str
    text_4: str
    text_5: str


class Rating(Answer):
    """One example on the 0-3 rubric."""

    evidence: str
    score: Literal[0, 1, 2, 3]


class Sureness(Answer):
    """How sure the judge is that an example fits, 0 (certainly not) to 3 (certainly)."""

    sure: Literal[0, 1, 2, 3]


def written(answer: WrittenTexts) -> list[str]:
    """The texts that are not empty."""
    return [text for text in (getattr(answer, f"text_{i}") for i in range(1, N_TEXTS + 1)) if text.strip()]


def ratings(n: int) -> type[BaseModel]:
    """The answer to a call with `n` examples to rate: fields `example_1` ... `example_n`."""
    return globals()[f"Ratings{n}"]


def surenesses(n: int) -> type[BaseModel]:
    """The answer to a call with `n` examples to detect or to check: fields `example_1` ... `example_n`."""
    return globals()[f"Surenesses{n}"]


def items(answer: Any) -> list[Any]:
    """The examples' answers in order."""
    return [getattr(answer, name) for name in type(answer).model_fields]


def _per_example(name: str, item: type[BaseModel], n: int) -> type[BaseModel]:
    fields: dict[str, Any] = {f"example_{i}": (item, ...) for i in range(1, n + 1)}
    return create_model(f"{name}{n}", __base__=Answer, __module__=__name__, **fields)


# Under module names of their own, because the ledger records an answer's type by name and finds it again after a restart.
for _n in range(1, MAX_EXAMPLES_PER_CALL + 1):
    globals()[f"Ratings{_n}"] = _per_example("Ratings", Rating, _n)
    globals()[f"Surenesses{_n}"] = _per_example("Surenesses", Sureness, _n)
