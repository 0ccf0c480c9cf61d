"""The stage `case_clamps`: what clamping a case's feature does, read off next-token probabilities.

A case that is finished stays in the work folder: a run that was killed goes on with the next one.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from sae_pipeline.plots.cases import draw_cases
from sae_pipeline.store import Outcome
from sae_pipeline.survey.cases import answers, code_clamps, pronouns, unsafe_code, yes_bias
from sae_pipeline.survey.cases.case import World
from sae_pipeline.survey.cases.clamp_case import FIGURE, ClampCase, Clamped, ClampWorld, maxima
from sae_pipeline.survey.cases.clamping import Clamper
from sae_pipeline.survey.measurement import MEASUREMENTS, Measurement, write_measurements
from sae_pipeline.tables.schemas import conform, empty

STAGE, PARTS, TABLES = "case_clamps", "parts", ("case_doses", "case_generations")
CLAMPS: dict[str, ClampCase] = {
    "code_error": code_clamps.run,
    "pronouns": pronouns.run,
    "praise": answers.praise,
    "persona": answers.persona,
    "secrecy": answers.secrecy,
    "unsafe_code": unsafe_code.run,
    "yes_bias": yes_bias.run,
}


def build_case_clamps(world: World, case_studies: Path, work: Path, cases: Mapping[str, ClampCase] = CLAMPS) -> Outcome:
    """Write `measurements`, `case_doses` and `case_generations` into `work`, and the figure. `case_studies`: its folder."""
    clamper = Clamper(world.lm, world.banks.features, maxima(world.feature_stats, world.size))
    found = ClampWorld(world, clamper, pl.read_parquet(case_studies / "case_features.parquet"))
    for name, case in cases.items():
        folder = work / PARTS / name
        if not (folder / MEASUREMENTS).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, case(found))
    measured: list[Measurement] = []
    for name in cases:
        rows = pl.read_parquet(work / PARTS / name / MEASUREMENTS).drop("stage")
        measured += [Measurement(**row) for row in rows.iter_rows(named=True)]
    frame = write_measurements(work, STAGE, measured)
    for table in TABLES:
        pl.concat([pl.read_parquet(work / PARTS / name / f"{table}.parquet") for name in cases]).write_parquet(
            work / f"{table}.parquet", compression="zstd"
        )
    draw_cases(frame, work, FIGURE)
    shutil.rmtree(work / PARTS)
    return Outcome({
        "n_measurements": frame.height,
        "n_not_testable": frame.filter(pl.col("status") == "not_testable").height,
        **{row["measurement"]: row["value"] for row in frame.iter_rows(named=True)},
    })  # fmt: skip


def _write(folder: Path, made: Clamped) -> None:
    """The measurements come last: where they are, the case is whole."""
    for table, rows in zip(TABLES, (made.doses, made.generations), strict=True):
        frame = pl.DataFrame(rows, schema=empty(table).schema) if rows else empty(table)
        conform(table, frame).write_parquet(folder / f"{table}.parquet")
    write_measurements(folder, STAGE, made.measurements)
