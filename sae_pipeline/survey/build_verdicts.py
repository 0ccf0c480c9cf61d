"""The stage `survey_verdicts`: every row of the checklist decided from what all the other stages of the survey measured."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from sae_pipeline.store import Outcome
from sae_pipeline.survey.checklist import read_checklist
from sae_pipeline.survey.measurement import MEASUREMENTS
from sae_pipeline.survey.verdicts import decide
from sae_pipeline.tables.survey_tables import VERDICTS

FILE = "survey_verdicts.parquet"


def build_verdicts(folders: Iterable[Path], work: Path) -> Outcome:
    """Write table `survey_verdicts` into `work`. `folders`: of every stage; those that measure nothing are passed over.

    Raises `ValueError` when a measurement that the checklist asks for was made by nobody, or by two stages.
    """
    files = [file for folder in folders if (file := folder / MEASUREMENTS).is_file()]
    measurements = pl.concat([pl.read_parquet(file) for file in files])
    repeated = measurements.group_by("measurement", "size").len().filter(pl.col("len") > 1)
    if len(repeated):
        raise ValueError(f"measured twice: {', '.join(sorted(set(repeated['measurement'])))}")
    verdicts = decide(read_checklist(), measurements)
    verdicts.write_parquet(work / FILE, compression="zstd")
    counts = dict(verdicts.group_by("verdict").len().iter_rows())
    with_control = verdicts.filter(pl.col("value").is_not_null() & pl.col("control_value").is_not_null())
    return Outcome({
        "n_rows": len(verdicts), **{verdict.replace(" ", "_"): counts.get(verdict, 0) for verdict in VERDICTS},
        "n_as_expected": int((verdicts["verdict"] == verdicts["expected"]).sum()),
        "n_with_value": int(verdicts["value"].is_not_null().sum()), "n_with_control": len(with_control),
        "n_controls_by_construction": int(with_control["control_by_construction"].is_not_null().sum()),
        "n_measurements": len(measurements),
    })  # fmt: skip
