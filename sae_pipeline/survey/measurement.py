"""What every part of the survey hands to the verdicts: one number, its interval, its control, its denominator."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from sae_pipeline.digests import file_digest, value_digest
from sae_pipeline.tables.schemas import conform, empty

MEASUREMENTS = "measurements.parquet"


@dataclass(frozen=True)
class Measurement:
    """One row of `survey_measurements` (docs/tables.md says what each field means).

    `difference` is over the same items as value and control; left out, it is value minus control where both are there.
    `n_control` is given where the control is over items of its own, so many of them.
    `figure` names a file `<figure>.light.png` of the stage's folder.
    """

    measurement: str
    metric: str
    value: float | None
    n_scored: int
    n_attempted: int
    size: int | None = None
    low: float | None = None
    high: float | None = None
    control: str | None = None
    control_value: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    n_control: int | None = None
    n_seeds: int = 1
    ceiling_metric: str | None = None
    ceiling: float | None = None
    ceiling_threshold: float | None = None
    status: str = "ok"
    why: str | None = None
    files_sha: str | None = None
    rows: str | None = None
    figure: str | None = None


def too_few(what: str, n: int, needed: int) -> dict[str, Any]:
    """Fields of a measurement that could not be taken: `n` of `what` were there, `needed` are needed.

    A measurement without a value that does not say this counts as a miss (`sae_pipeline/survey/verdicts.py`).
    """
    return {"status": "too_few_examples", "ceiling_metric": what, "ceiling": float(n), "ceiling_threshold": float(needed)}


def write_measurements(work: Path, stage: str, measurements: Iterable[Measurement]) -> pl.DataFrame:
    """Write `measurements.parquet` of a stage and return it.

    What lies below its ceiling's threshold becomes `not_testable` here, so that no stage can forget it.
    """
    rows = [{"stage": stage} | asdict(_judged(each)) for each in measurements]
    frame = conform("survey_measurements", pl.DataFrame(rows, schema=empty("survey_measurements").schema))
    frame.write_parquet(work / MEASUREMENTS, compression="zstd")
    return frame


def _judged(one: Measurement) -> Measurement:
    if one.difference is None and one.value is not None and one.control_value is not None:
        one = replace(one, difference=one.value - one.control_value)
    # What a case has judged already, and its stage writes again, keeps its reason as it is.
    below = one.ceiling is not None and one.ceiling_threshold is not None and one.ceiling < one.ceiling_threshold
    if below and one.status != "not_testable":
        why = f"{one.ceiling_metric} is {one.ceiling:.3g}, below {one.ceiling_threshold:.3g}"
        one = replace(one, status="not_testable", why=f"{why}; {one.why}" if one.why else why)
    return one


def files_digest(*files: Path) -> str:
    """Digest of committed prompt and concept files: what a measurement was taken with."""
    return value_digest([[file.name, file_digest(file)] for file in files])[:16]
