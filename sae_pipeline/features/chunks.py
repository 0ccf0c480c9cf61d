"""Walk through the sorted activations a bounded number of rows at a time, never cutting a feature in two.

Shapes: U features of a chunk (first_feature .. first_feature + U - 1), Z activations of a chunk.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sae_pipeline.features.runs import Runs
from sae_pipeline.features.sparse import SparseActivations

CHUNK_ROWS = 1_000_000  # about 0.15 GB of working arrays; a single denser feature is a chunk of its own


@dataclass(frozen=True)
class Chunk:
    """The activations of a run of features: by split, `SparseActivations` whose units count from `first_feature`."""

    first_feature: int
    n_features: int
    by_split: dict[str, SparseActivations]


def chunks(runs: Mapping[str, Runs], chunk_rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """Chunks of at most `chunk_rows` activations (all splits), in feature order, covering every feature."""
    rows_F = np.sum([of_split.rows_F for of_split in runs.values()], axis=0)
    for first, last in feature_ranges(rows_F, chunk_rows):
        yield Chunk(first, last - first, {split: of_split.between(first, last) for split, of_split in runs.items()})


def feature_ranges(rows_F: np.ndarray, chunk_rows: int) -> list[tuple[int, int]]:
    """Consecutive half-open ranges of features with at most `chunk_rows` rows each (or one feature)."""
    ranges, first, held = [], 0, 0
    for feature, rows in enumerate(rows_F.tolist()):
        if held + rows > chunk_rows and feature > first:
            ranges.append((first, feature))
            first, held = feature, 0
        held += rows
    return [*ranges, (first, len(rows_F))]
