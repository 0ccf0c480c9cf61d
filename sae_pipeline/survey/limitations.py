"""What the paper names as its limits, and what is done about each: read from `limitations.yaml`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sae_pipeline.survey.measurement import Measurement, files_digest

FILE = Path(__file__).with_name("limitations.yaml")


def read_limitations() -> dict[str, list[Any]]:
    """{"limitations": [{"limitation", "answer", "measured": [names of measurements]}], "safety_outcomes": [names]}."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def limitations() -> Iterator[Measurement]:
    """Share of limitations with an answer (an untested one says so), and how many outcomes of safety are measured."""
    written, digest = read_limitations(), files_digest(FILE)
    entries, outcomes = written["limitations"], len(written["safety_outcomes"])
    n, n_answered = len(entries), sum(bool(entry["answer"].strip()) for entry in entries)
    n_measured = sum(bool(entry["measured"]) for entry in entries)
    yield Measurement(
        "limitations_answered", "share of the named limitations that have an answer", n_answered / n, n, n,
        why=f"{n_measured} of {n} have a measurement, the others say that they are untested", files_sha=digest,
    )  # fmt: skip
    metric = "outcomes of safety that any stage measures"
    yield Measurement(
        "safety_outcomes_measured", metric, outcomes, outcomes, outcomes, ceiling_metric=metric, ceiling=outcomes,
        ceiling_threshold=1, files_sha=digest,
    )  # fmt: skip
