"""Which unit stands for a word: the best by F1 of firing against mention on train documents, looked at again on held-out ones.

Precision: share of the unit's active tokens that belong to a mention. Recall: share of mentions with an active token. Units come
feature by feature in bounded chunks; nothing of size words x features x tokens is ever made, only pairs that meet.

Shapes: U units of a chunk, Z activations of a chunk.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl

from sae_pipeline.features.chunks import feature_ranges
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.survey.completeness.mentions import Mentions
from sae_pipeline.tables.columns import SPLITS

CHUNK_ROWS = 1_000_000
Chunk = tuple[int, dict[str, SparseActivations]]  # first unit, activations by split


def unit_chunks(by_split: dict[str, SparseActivations]) -> Iterator[Chunk]:
    """Units in order, so many at once that they have at most `CHUNK_ROWS` activations."""
    rows_U = np.sum([each.count_U for each in by_split.values()], axis=0)
    for first, last in feature_ranges(rows_U, CHUNK_ROWS):
        yield first, {split: each.columns(np.arange(first, last)) for split, each in by_split.items()}


def best_units(chunks: Iterable[Chunk], mentions: Mentions) -> pl.DataFrame:
    """One row per word that any unit meets in train documents: word (index), unit, f1_train, f1_held_out (0 where silent)."""
    best = pl.DataFrame(schema={"word": pl.Int64, "unit": pl.Int64, "f1_train": pl.Float64, "f1_held_out": pl.Float64})
    for first, by_split in chunks:
        train, held_out = (_f1(by_split[split], mentions, split) for split in SPLITS)
        found = train.join(held_out, on=["word", "unit"], how="left", suffix="_held_out").select(
            "word", pl.col("unit") + first, f1_train="f1", f1_held_out=pl.col("f1_held_out").fill_null(0.0)
        )
        best = (
            pl.concat([best, found])
            .sort("word", "f1_train", "unit", descending=[False, True, False])
            .unique("word", keep="first", maintain_order=True)
        )
    return best


def _f1(activations: SparseActivations, mentions: Mentions, split: str) -> pl.DataFrame:
    mention_Z = mentions.mention_N[activations.token_index]
    inside = mention_Z >= 0
    pairs = pl.DataFrame({"unit": activations.unit_Z[inside], "mention": mention_Z[inside]})
    pairs = pairs.with_columns(word=pl.Series(mentions.word_M[mention_Z[inside]]))
    counted = pairs.group_by("unit", "word").agg(n_tokens=pl.len(), n_hit=pl.col("mention").n_unique())
    unit, word = counted["unit"].to_numpy(), counted["word"].to_numpy()
    precision = counted["n_tokens"].to_numpy() / np.maximum(activations.count_U[unit], 1)
    recall = counted["n_hit"].to_numpy() / np.maximum(mentions.count(split)[word], 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return pl.DataFrame({"word": word.astype(np.int64), "unit": unit.astype(np.int64), "f1": f1})
