"""The stage `completeness`: which words have a feature, by frequency and size (paper, 'Feature completeness')."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.chunks import feature_ranges
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import random_directions
from sae_pipeline.plots.completeness import concept_presence
from sae_pipeline.plots.figure import write_figure
from sae_pipeline.progress import bar
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey import Completeness
from sae_pipeline.survey.completeness.measure import completeness_measurements
from sae_pipeline.survey.completeness.mentions import PREDICTION, Concept, Mentions, read_concepts
from sae_pipeline.survey.completeness.presence import Chunk, best_units
from sae_pipeline.survey.measurement import Measurement, files_digest, write_measurements
from sae_pipeline.survey.resampling import mean_interval
from sae_pipeline.tables.columns import SPLITS
from sae_pipeline.tables.schemas import conform

PRESENT = 0.5  # F1, on train and on held-out documents
CHUNK_ROWS = 1_000_000
TABLE = "concept_presence.parquet"


def build_completeness(
    corpus: Path, activations: Path, feature_stats: Mapping[int, Path], settings: Completeness, work: Path
) -> Outcome:
    """Write `concept_presence`, its figure and `measurements.parquet`. `feature_stats`: folder of each size."""
    reader = ActivationReader.open(activations)
    tokens = TokenTable.of(CorpusReader.open(corpus), reader)
    concepts, files = read_concepts()
    mentions = Mentions.find(tokens, concepts)
    shuffled = mentions.shuffled(settings.seed)
    frames, alive = [], {}
    with bar("completeness", len(feature_stats), "sizes") as progress:
        for size, folder in feature_stats.items():
            alive[size] = pl.read_parquet(folder / "features.parquet").filter("alive").height
            found, control = (best_units(sae_chunks(folder), each) for each in (mentions, shuffled))
            frames.append(presence_rows(concepts, mentions, found, control, int(tokens.train_N.sum()), size, settings))
            progress.update(1)
    table = conform("concept_presence", pl.concat(frames))
    table.write_parquet(work / TABLE)
    write_figure(work, "concept_presence", lambda theme: concept_presence(table, alive, theme))
    sha = files_digest(*files, PREDICTION)
    measured = list(completeness_measurements(table, alive, settings.seed, sha))
    if settings.n_directions:
        measured.append(_directions(reader, feature_stats, concepts, mentions, settings, sha))
    write_measurements(work, "completeness", measured)
    scored = table.filter(pl.col("present").is_not_null())
    return Outcome({"n_words": len(mentions.words), "n_words_scored": scored["word"].n_unique()} | {
        f"coverage {size}": float(scored.filter(size=size)["present"].to_numpy().mean()) for size in alive if scored.height
    })  # fmt: skip


def sae_chunks(folder: Path) -> Iterator[Chunk]:
    """The sorted activations of a `feature_stats/<size>/` artefact, a bounded number of rows at a time."""
    by_split = {split: SparseActivations.open(folder / f"activations_{split}.parquet") for split in SPLITS}
    yield from unit_chunks(by_split)


def unit_chunks(by_split: dict[str, SparseActivations]) -> Iterator[Chunk]:
    """Units in order, so many at once that they have at most `CHUNK_ROWS` activations."""
    rows_U = np.sum([each.count_U for each in by_split.values()], axis=0)
    for first, last in feature_ranges(rows_U, CHUNK_ROWS):
        yield first, {split: each.columns(np.arange(first, last)) for split, each in by_split.items()}


def presence_rows(
    concepts: list[Concept], mentions: Mentions, found: pl.DataFrame, control: pl.DataFrame, n_train: int, size: int,
    settings: Completeness,
) -> pl.DataFrame:  # fmt: skip
    """Table `concept_presence` of one size. `present` is null for words with too few mentions to say."""
    place = {word: i for i, word in enumerate(mentions.words)}
    train, held_out = mentions.count("train"), mentions.count("held_out")
    word = np.array([place[concept.word] for concept in concepts])
    enough = (pl.col("n_mentions_train") >= settings.min_train) & (pl.col("n_mentions_held_out") >= settings.min_held_out)
    has = (pl.col("f1_train") >= PRESENT) & (pl.col("f1_held_out") >= PRESENT)
    has_control = (pl.col("control_f1_train") >= PRESENT) & (pl.col("control_f1") >= PRESENT)
    return (
        pl.DataFrame({
            "size": np.full(len(concepts), size), "family": [concept.family for concept in concepts],
            "word": [concept.word for concept in concepts], "index": word, "frequency": train[word] / max(n_train, 1),
            "n_mentions_train": train[word], "n_mentions_held_out": held_out[word],
        })
        .join(found.rename({"word": "index", "unit": "feature"}), on="index", how="left", maintain_order="left")
        .join(
            control.select(index="word", control_f1_train="f1_train", control_f1="f1_held_out"), on="index", how="left",
            maintain_order="left",
        )
        .with_columns(
            present=pl.when(enough).then(has.fill_null(False)),
            control_present=pl.when(enough).then(has_control.fill_null(False)),
        )
        .drop("index", "control_f1_train")
    )  # fmt: skip


def _directions(
    reader: ActivationReader, feature_stats: Mapping[int, Path], concepts: list[Concept], mentions: Mentions,
    settings: Completeness, sha: str,
) -> Measurement:  # fmt: skip
    """Coverage by some features of the smallest size and by random directions of their densities, the best chosen alike."""
    size = min(feature_stats)
    by_split = {split: SparseActivations.open(feature_stats[size] / f"activations_{split}.parquet") for split in SPLITS}
    usable = np.flatnonzero(by_split["train"].count_U)
    drawn = np.random.default_rng(settings.seed).permutation(usable)[: settings.n_directions]
    directions = random_directions(reader, by_split["train"].count_U[drawn], settings.seed)
    both = (
        {split: each.columns(drawn) for split, each in by_split.items()},
        {"train": directions.train, "held_out": directions.held_out},
    )
    own, control = (
        presence_rows(concepts, mentions, found, found, 1, size, settings)["present"].drop_nulls().to_numpy().astype(float)
        for found in (best_units(unit_chunks(each), mentions) for each in both)
    )
    scored = len(own) > 0
    low, high = mean_interval(own, settings.seed)
    difference = mean_interval(own - control, settings.seed)
    return Measurement(
        "concept_coverage_over_random_directions", f"share of words with a feature among {len(drawn)} random live ones",
        float(own.mean()) if scored else None, len(own), len(concepts), size, low=low, high=high,
        control=f"the best of {len(drawn)} random directions of equal density",
        control_value=float(control.mean()) if scored else None,
        difference_low=difference[0], difference_high=difference[1], status="ok" if scored else "too_few_examples",
        files_sha=sha, rows="concept_presence",
    )  # fmt: skip
