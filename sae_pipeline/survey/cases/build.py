"""The stage `case_studies`: the paper's cases of detection, one after the other, each beside random directions.

A case that is finished stays in the work folder: a run that was killed goes on with the next one.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import torch

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.plots.cases import draw_cases
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey import CaseStudies
from sae_pipeline.survey.cases import (
    abstract,
    addition,
    code_error,
    list_position,
    multilingual,
    python_syntax,
    self_features,
    toy_features,
    zero_shot_chat,
)
from sae_pipeline.survey.cases.bank import Banks, random_bank
from sae_pipeline.survey.cases.case import FIGURE, Case, Found, World, densities
from sae_pipeline.survey.measurement import MEASUREMENTS, Measurement, write_measurements
from sae_pipeline.tables.schemas import conform, empty

STAGE, PARTS = "case_studies", "parts"
CASES: dict[str, Case] = {
    "code_error": code_error.run,
    "addition_function": addition.run,
    "list_position": list_position.run,
    "python_syntax": python_syntax.run,
    "toy_features": toy_features.run,
    "multilingual": multilingual.run,
    "abstract": abstract.run,
    "zero_shot_chat": zero_shot_chat.run,
    "self_features": self_features.run,
}


def open_world(
    lm: LanguageModel, corpus: Path, activations: Path, feature_stats: Path, sae_folder: Path, settings: CaseStudies
) -> World:
    """The SAE with its random directions, and everything that the cases read."""
    sae = SparseAutoencoder.load(sae_folder, lm.device)
    reader = ActivationReader.open(activations, lm)
    train_N = reader.token_index("train")
    random = torch.Generator().manual_seed(settings.seed)
    sample_N = train_N[torch.randperm(len(train_N), generator=random)[: settings.threshold_tokens]].sort().values
    null = random_bank(sae, reader.gather(sample_N), densities(feature_stats, sae.n_features), settings.seed)
    return World(lm, Banks(sae, null), CorpusReader.open(corpus), reader, feature_stats, settings)


def build_case_studies(world: World, work: Path, cases: Mapping[str, Case] = CASES) -> Outcome:
    """Write `measurements`, `case_items` and `case_features` into `work`, and the figure."""
    for name, case in cases.items():
        folder = work / PARTS / name
        if not (folder / MEASUREMENTS).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, case(world))
    measured: list[Measurement] = []
    for name in cases:
        rows = pl.read_parquet(work / PARTS / name / MEASUREMENTS).drop("stage")
        measured += [Measurement(**row) for row in rows.iter_rows(named=True)]
    frame = write_measurements(work, STAGE, measured)
    for table in ("case_items", "case_features"):
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


def _write(folder: Path, found: Found) -> None:
    """The measurements come last: where they are, the case is whole."""
    for table, rows in (("case_items", found.items), ("case_features", found.chosen)):
        frame = pl.DataFrame(rows, schema=empty(table).schema) if rows else empty(table)
        conform(table, frame).write_parquet(folder / f"{table}.parquet")
    write_measurements(folder, STAGE, found.measurements)
