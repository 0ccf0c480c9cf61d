"""What the paper names as its limits, and what is done about each: read from `limitations.yaml`."""

from pathlib import Path
from typing import Any

import yaml

from sae_pipeline.survey.measurement import Measurement, files_digest

FILE = Path(__file__).with_name("limitations.yaml")


def read_limitations() -> list[dict[str, Any]]:
    """[{"limitation", "answer", "measured": [names of measurements]}]."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))["limitations"]


def limitations() -> Measurement:
    """Share of limitations that a measurement answers. A text that says "untested" is honest, and no answer."""
    entries = read_limitations()
    open_ones = [entry["limitation"] for entry in entries if not entry["measured"]]
    n, n_measured = len(entries), len(entries) - len(open_ones)
    return Measurement(
        "limitations_answered", "share of the named limitations that a measurement answers", n_measured / n, n_measured, n,
        why="; ".join(["open", *open_ones]) if open_ones else None, files_sha=files_digest(FILE), rows="survey_measurements",
    )  # fmt: skip
