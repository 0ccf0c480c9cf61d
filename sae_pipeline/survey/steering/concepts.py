"""Concepts, neutral sentences, multiple-choice questions and openings of the comparison, read from their committed files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sae_pipeline.errors import UserError
from sae_pipeline.steering.concepts import Concept
from sae_pipeline.steering.prompts import stem
from sae_pipeline.survey.measurement import files_digest

CONCEPTS, CAPABILITY, OPENINGS = (Path(__file__).with_name(f"{name}.yaml") for name in ("concepts", "capability", "openings"))
N_FEW = 2  # examples of the few-shot methods (paper, appendix: one or two)


@dataclass(frozen=True)
class Topic:
    """A concept: the words that say it (stemmed, as texts are read), and sentences about it. `theme`: its place in row 30."""

    name: str
    concept: Concept
    texts: tuple[str, ...]
    theme: str | None


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; the first answer is right. `first`: one of those on which row 33 was measured at first."""

    ask: str
    answers: tuple[str, ...]
    first: bool


def read_topics(n: int) -> tuple[list[Topic], list[str]]:
    """(the first `n` concepts, neutral sentences). Raises `UserError` when there are not so many."""
    raw: dict[str, Any] = yaml.safe_load(CONCEPTS.read_text(encoding="utf-8"))
    listed = raw["concepts"]
    if n > len(listed):
        raise UserError(
            "survey.steering_comparison.n_concepts", f"{n} concepts wanted, there are {len(listed)}", "Lower the number."
        )
    topics = [
        Topic(each["name"], Concept(tuple(dict.fromkeys(map(stem, each["terms"])))), tuple(each["texts"]), each.get("theme"))
        for each in listed[:n]
    ]
    return topics, raw["neutral"]


def read_questions() -> list[Question]:
    """All questions."""
    raw = yaml.safe_load(CAPABILITY.read_text(encoding="utf-8"))
    return [
        Question(each["ask"], tuple(each["answers"]), key == "questions")
        for key in ("questions", "more_questions")
        for each in raw[key]
    ]


def read_openings() -> tuple[str, list[str]]:
    """(user turn, beginnings of its answer) along which doses are read."""
    raw = yaml.safe_load(OPENINGS.read_text(encoding="utf-8"))
    return raw["turn"], raw["texts"]


def committed() -> str:
    """Digest of all three files."""
    return files_digest(CONCEPTS, CAPABILITY, OPENINGS)
