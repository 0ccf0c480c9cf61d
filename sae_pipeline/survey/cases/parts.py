"""Cases one after the other: what a case finds lies in the work folder until all are done, so that a killed run goes on."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import polars as pl

from sae_pipeline.plots.cases import draw_cases
from sae_pipeline.store import Outcome
from sae_pipeline.survey.cases.random_features import SUFFIX
from sae_pipeline.survey.measurement import MEASUREMENTS, Measurement, write_measurements
from sae_pipeline.tables.schemas import conform, empty

PARTS = "parts"


class Made(Protocol):
    """What one case found."""

    measurements: list[Measurement]

    @property
    def rows(self) -> Mapping[str, list[dict]]:
        """Rows of each table, by its name."""
        ...


def build_parts(stage: str, figure: str, cases: Mapping[str, Callable[[], Made]], work: Path) -> Outcome:
    """Write the measurements and tables of all cases into `work`, and the figure. There is at least one case."""
    for name, case in cases.items():
        folder = work / PARTS / name
        if not (folder / MEASUREMENTS).is_file():
            scratch = folder.with_name(f"{name}.partial")
            for leftover in (scratch, folder):  # of a run that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            scratch.mkdir(parents=True)
            _write(stage, scratch, case())
            scratch.rename(folder)
    measured: list[Measurement] = []
    for name in cases:
        rows = pl.read_parquet(work / PARTS / name / MEASUREMENTS).drop("stage")
        measured += [Measurement(**row) for row in rows.iter_rows(named=True)]
    frame = write_measurements(work, stage, measured)
    first = work / PARTS / next(iter(cases))
    for table in sorted(file.name for file in first.glob("*.parquet") if file.name != MEASUREMENTS):
        pl.concat([pl.read_parquet(work / PARTS / name / table) for name in cases]).write_parquet(
            work / table, compression="zstd"
        )
    # The same values stand beside random features once more: they are drawn and counted once.
    once = frame.filter(~pl.col("measurement").str.ends_with(SUFFIX))
    draw_cases(once, work, figure)
    shutil.rmtree(work / PARTS)
    return Outcome({
        "n_measurements": once.height,
        "n_not_testable": once.filter(pl.col("status") == "not_testable").height,
        **{row["measurement"]: row["value"] for row in once.iter_rows(named=True)},
    })  # fmt: skip


def _write(stage: str, folder: Path, made: Made) -> None:
    for table, rows in made.rows.items():
        frame = pl.DataFrame(rows, schema=empty(table).schema) if rows else empty(table)
        conform(table, frame).write_parquet(folder / f"{table}.parquet")
    write_measurements(folder, stage, made.measurements)
