"""The stage `completeness`: which words have a feature, by frequency and size (paper, 'Feature completeness')."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.plots.completeness import concept_presence
from sae_pipeline.plots.figure import write_figure
from sae_pipeline.progress import bar
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey import Completeness
from sae_pipeline.survey.completeness.measure import completeness_measurements
from sae_pipeline.survey.completeness.mentions import PREDICTION, Concept, Mentions, read_concepts
from sae_pipeline.survey.completeness.presence import best_units, unit_chunks
from sae_pipeline.survey.completeness.random_directions import best_directions
from sae_pipeline.survey.measurement import files_digest, write_measurements
from sae_pipeline.survey.parts import PARTS, kept
from sae_pipeline.survey.thresholds import thresholds
from sae_pipeline.tables.columns import SPLITS
from sae_pipeline.tables.schemas import conform

TABLE = "concept_presence.parquet"


def build_completeness(
    corpus: Path, activations: Path, feature_stats: Mapping[int, Path], settings: Completeness, work: Path
) -> Outcome:
    """Write `concept_presence`, its figure and `measurements.parquet`. `feature_stats`: folder of each size.

    A killed run keeps finished sizes.
    """
    world = _World.of(CorpusReader.open(corpus), ActivationReader.open(activations), settings)
    frames, alive, n_directions = [], {}, {}
    with bar("completeness", len(feature_stats), "sizes") as progress:
        for size, folder in feature_stats.items():
            alive_F = pl.read_parquet(folder / "features.parquet").filter("alive").sort("feature")["feature"].to_numpy()
            drawn = np.random.default_rng([settings.seed, size]).permutation(alive_F)[: settings.n_directions]
            alive[size], n_directions[size] = len(alive_F), len(drawn)
            frames.append(kept(work / PARTS / f"{size}.parquet", partial(world.presence, size, folder, np.sort(drawn))))
            progress.update(1)
    table = conform("concept_presence", pl.concat(frames))
    table.write_parquet(work / TABLE)
    write_figure(work, "concept_presence", lambda theme: concept_presence(table, alive, theme))
    sha = files_digest(*world.files, PREDICTION)
    write_measurements(work, "completeness", completeness_measurements(table, alive, n_directions, settings.seed, sha))
    shutil.rmtree(work / PARTS)
    scored = table.filter(pl.col("present").is_not_null())
    return Outcome({"n_words": len(world.mentions.words), "n_words_scored": scored["word"].n_unique()} | {
        f"coverage {size}": float(scored.filter(size=size)["present"].to_numpy().mean()) for size in alive if scored.height
    })  # fmt: skip


@dataclass(frozen=True)
class _World:
    """The words and where the corpus mentions them: the same for all sizes."""

    reader: ActivationReader
    n_train: int
    concepts: list[Concept]
    files: list[Path]
    mentions: Mentions
    shuffled: Mentions
    settings: Completeness

    @classmethod
    def of(cls, corpus: CorpusReader, reader: ActivationReader, settings: Completeness) -> "_World":
        tokens = TokenTable.of(corpus, reader)
        concepts, files = read_concepts()
        mentions = Mentions.find(tokens, concepts)
        return cls(
            reader, int(tokens.train_N.sum()), concepts, files, mentions, mentions.shuffled(settings.seed), settings
        )  # fmt: skip

    def presence(self, size: int, folder: Path, drawn: np.ndarray) -> pl.DataFrame:
        """Table `concept_presence` of one size: features, features on shuffled mentions, one random direction per `drawn` one."""
        by_split = {split: SparseActivations.open(folder / f"activations_{split}.parquet") for split in SPLITS}
        found, shuffled = (best_units(unit_chunks(by_split), each) for each in (self.mentions, self.shuffled))
        matched = by_split["train"].count_U[drawn]
        del by_split
        mentions, settings = self.mentions, self.settings
        scored = (mentions.count("train") >= settings.min_train) & (mentions.count("held_out") >= settings.min_held_out)
        nulls = {
            "control": shuffled,
            "direction": best_directions(self.reader, mentions, np.flatnonzero(scored), matched, settings.seed + size),
        }
        return presence_rows(self.concepts, mentions, found, nulls, self.n_train, size, settings)


def presence_rows(
    concepts: list[Concept], mentions: Mentions, found: pl.DataFrame, nulls: Mapping[str, pl.DataFrame], n_train: int, size: int,
    settings: Completeness,
) -> pl.DataFrame:  # fmt: skip
    """Table `concept_presence` of one size. `present` is null for words with too few mentions to say.

    `found` and each of `nulls`: what `best_units` says; a null's columns begin with its name.
    """
    place = {word: i for i, word in enumerate(mentions.words)}
    train, held_out = mentions.count("train"), mentions.count("held_out")
    word = np.array([place[concept.word] for concept in concepts])
    enough = (pl.col("n_mentions_train") >= settings.min_train) & (pl.col("n_mentions_held_out") >= settings.min_held_out)
    rows = pl.DataFrame({
        "size": np.full(len(concepts), size), "family": [concept.family for concept in concepts],
        "word": [concept.word for concept in concepts], "index": word, "frequency": train[word] / max(n_train, 1),
        "n_mentions_train": train[word], "n_mentions_held_out": held_out[word],
    }).join(found.rename({"word": "index", "unit": "feature"}), on="index", how="left", maintain_order="left")  # fmt: skip
    columns = [_present(enough, "f1_train", "f1_held_out").alias("present")]
    for name, units in nulls.items():
        null = units.select(
            pl.col("word").alias("index"), pl.col("f1_train").alias(f"{name}_f1_train"), pl.col("f1_held_out").alias(f"{name}_f1")
        )
        rows = rows.join(null, on="index", how="left", maintain_order="left")
        columns.append(_present(enough, f"{name}_f1_train", f"{name}_f1").alias(f"{name}_present"))
    return rows.with_columns(columns).drop("index", *(f"{name}_f1_train" for name in nulls))


def _present(enough: pl.Expr, train: str, held_out: str) -> pl.Expr:
    f1 = thresholds().present_f1
    has = (pl.col(train) >= f1) & (pl.col(held_out) >= f1)
    return pl.when(enough).then(has.fill_null(False))
