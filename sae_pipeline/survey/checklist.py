"""The checklist: what is claimed, which measurements answer it, and what they must show. Read from `checklist.yaml`."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from sae_pipeline.digests import file_digest, value_digest
from sae_pipeline.survey.thresholds import FILE as THRESHOLDS

FILE = Path(__file__).with_name("checklist.yaml")
Verdict = Literal["reproduced", "not reproduced", "not testable"]
CRITERIA = {
    "at_least": "{metric} at least {x:g}",
    "at_most": "{metric} at most {x:g}",
    "low_above": "interval of {metric} above {x:g}",
    "beats_control_by": "{metric} beats {control} by at least {x:g}",
    "difference_low_above": "interval of {metric} minus {control} above {x:g}",
}


class Need(BaseModel):
    """One test of one measurement. Exactly one criterion is given.

    Where the measurement has a control, the value must be on the right side of it, too (`sae_pipeline/survey/verdicts.py`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    measurement: str
    sizes: Literal["largest", "every"] = "largest"
    at_least: float | None = None
    at_most: float | None = None
    low_above: float | None = None
    beats_control_by: float | None = None
    difference_low_above: float | None = None

    @model_validator(mode="after")
    def _one_criterion(self) -> "Need":
        if sum(getattr(self, name) is not None for name in CRITERIA) != 1:
            raise ValueError(f"{self.measurement}: give exactly one of {', '.join(CRITERIA)}")
        return self

    @property
    def criterion(self) -> tuple[str, float]:
        """(name, threshold) of the one that is given."""
        return next((name, value) for name in CRITERIA if (value := getattr(self, name)) is not None)


class Row(BaseModel):
    """One row: a claim, the prediction, and its tests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: int
    claim: str
    expect: Verdict
    needs: list[Need]


class Section(BaseModel):
    """A part of the paper."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    section: str
    rows: list[Row]


def read_checklist() -> list[Section]:
    """Every row in order. Raises pydantic's `ValidationError` for a file that is none."""
    return [Section.model_validate(each) for each in yaml.safe_load(FILE.read_text(encoding="utf-8"))]


def checklist_sha() -> str:
    """Digest of claims, predictions and thresholds; it stands in every verdict."""
    return value_digest([file_digest(FILE), file_digest(THRESHOLDS)])[:16]
