"""Walk through the sorted activations a bounded number of rows at a time, never cutting a feature in two.

Shapes: U features of a chunk (first_feature .. first_feature + U - 1), Z activations of a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from sae_pipeline.features.cache import cache_file
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.tables.columns import SPLITS

CHUNK_ROWS = 4_000_000  # about 0.5 GB of working arrays; a single denser feature is a chunk of its own


@dataclass(frozen=True)
class Chunk:
    """The activations of a run of features: by split, `SparseActivations` whose units count from `first_feature`."""

    first_feature: int
    n_features: int
    by_split: dict[str, SparseActivations]


def chunks(folder: Path, n_features: int, chunk_rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """Chunks of at most `chunk_rows` activations (both splits), in feature order, covering every feature."""
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
        rows_F = np.sum([_rows_by_feature(connection, cache_file(folder, split), n_features) for split in SPLITS], axis=0)
        for first, last in feature_ranges(rows_F, chunk_rows):
            by_split = {split: _read(connection, cache_file(folder, split), first, last) for split in SPLITS}
            yield Chunk(first, last - first, by_split)


def feature_ranges(rows_F: np.ndarray, chunk_rows: int) -> list[tuple[int, int]]:
    """Consecutive half-open ranges of features with at most `chunk_rows` rows each (or one feature)."""
    ranges, first, held = [], 0, 0
    for feature, rows in enumerate(rows_F.tolist()):
        if held + rows > chunk_rows and feature > first:
            ranges.append((first, feature))
            first, held = feature, 0
        held += rows
    return [*ranges, (first, len(rows_F))]


def _rows_by_feature(connection: duckdb.DuckDBPyConnection, file: Path, n_features: int) -> np.ndarray:
    query = "SELECT feature, count(*) AS n FROM read_parquet($file) GROUP BY feature"
    counted = connection.execute(query, {"file": str(file)}).fetchnumpy()
    rows_F = np.zeros(n_features, np.int64)
    rows_F[counted["feature"]] = counted["n"]
    return rows_F


def _read(connection: duckdb.DuckDBPyConnection, file: Path, first: int, last: int) -> SparseActivations:
    # The file is sorted and DuckDB keeps its order; row groups outside the range are skipped by their statistics.
    query = "SELECT feature, token_index, value FROM read_parquet($file) WHERE feature >= $first AND feature < $last"
    rows = connection.execute(query, {"file": str(file), "first": first, "last": last}).fetchnumpy()
    unit, token_index, value = (np.asarray(rows[name]) for name in ("feature", "token_index", "value"))
    return SparseActivations.from_sorted(unit - first, token_index, value, last - first)
