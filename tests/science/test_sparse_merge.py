"""Shards, runs and halves of an activation cache: merged, they are the whole, bit for bit; so is what is computed from them."""

import itertools
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from sae_pipeline.features.cache import ROW_GROUP, CacheWriter
from sae_pipeline.features.chunks import Chunk, chunks
from sae_pipeline.features.examples import Tokens, example_rows
from sae_pipeline.features.runs import Runs
from sae_pipeline.features.selection import document_runs, sample_priority, uniform_by_interval
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.features.statistics import cells_by_split, feature_rows, interval_rows
from sae_pipeline.study import Features
from sae_pipeline.tables.columns import N_INTERVALS

N, F = 600, 23


@pytest.fixture
def coordinates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, tokens (in order) and values of a pass; feature 5 and the last one never fire."""
    draw = np.random.default_rng(0)
    dense_NF = np.where(draw.random((N, F)) < 0.3, draw.exponential(size=(N, F)), 0).astype(np.float32)
    dense_NF[:, [5, F - 1]] = 0
    token, feature = np.nonzero(dense_NF)
    return feature, token, dense_NF[token, feature]


def equal(one: SparseActivations, other: SparseActivations) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("offsets", "token_index", "value"))


def shard(coordinates: tuple[np.ndarray, np.ndarray, np.ndarray], first: int, last: int) -> SparseActivations:
    inside = (coordinates[1] >= first) & (coordinates[1] < last)
    feature, token, value = coordinates[0][inside], coordinates[1][inside], coordinates[2][inside]
    return SparseActivations.from_token_order(feature, token, value, F)


def test_merged_shards_are_the_whole(coordinates):
    whole = SparseActivations.from_arrays(*coordinates, n_units=F)
    assert equal(shard(coordinates, 0, N), whole)
    parts = [shard(coordinates, *bounds) for bounds in ((200, 201), (201, N), (0, 200), (N, N + 9))]
    assert equal(SparseActivations.merge(parts), whole)
    assert equal(SparseActivations.merge([SparseActivations.merge(parts[:2]), parts[2]]), whole)
    with pytest.raises(ValueError, match="overlap"):
        SparseActivations.merge([shard(coordinates, 0, 300), shard(coordinates, 290, N)])


def test_runs_are_the_whole_whatever_their_length(coordinates, tmp_path):
    whole = SparseActivations.from_arrays(*coordinates, n_units=F)
    for run_rows in (100, 10**6):
        runs = Runs(tmp_path / str(run_rows), F, run_rows)
        for tokens in np.array_split(np.arange(N), 40):
            rows = (coordinates[1] >= tokens[0]) & (coordinates[1] <= tokens[-1])
            counts = np.bincount(coordinates[1][rows] - tokens[0], minlength=len(tokens))
            runs.add(tokens, counts, coordinates[0][rows], coordinates[2][rows])
        runs.finish()
        assert runs.rows_F.tolist() == whole.count_U.tolist()
        assert equal(runs.between(0, F), whole)
        assert equal(runs.between(4, 9), whole.columns(np.arange(4, 9)))
        found = list(chunks({"train": runs}, chunk_rows=500))
        assert sum(chunk.n_features for chunk in found) == F and len(found) > 5
        assert max(len(chunk.by_split["train"].value) for chunk in found) <= 500


def test_statistics_of_merged_halves_are_those_of_the_whole(coordinates):
    document = np.arange(N) // 7
    tokens = Tokens(np.arange(N) % 11, document, 10, pa.array([f"t{i}" for i in range(11)]), np.arange(11))
    text, settings = np.array([f"t{i}" for i in range(11)], dtype=object), Features(n_top=5, n_per_interval=2)
    results = []
    for cuts in ((0, 400), (0, 123, 400)):
        train = SparseActivations.merge([shard(coordinates, *bounds) for bounds in itertools.pairwise(cuts)])
        chunk = Chunk(0, F, {"train": train, "held_out": shard(coordinates, 400, N)})
        cells, first_row_R = cells_by_split(chunk), document_runs(train, document[train.token_index])
        results.append(
            SimpleNamespace(
                features=feature_rows(chunk, tokens.token_id, first_row_R, text, {"train": 400, "held_out": 200}),
                intervals=interval_rows(chunk, cells),
                examples=example_rows(chunk, "train", cells["train"], first_row_R, tokens, settings, 64),
            )
        )
    whole, merged = results
    assert merged.features.equals(whole.features) and merged.intervals.equals(whole.intervals)
    assert merged.examples.equals(whole.examples) and len(whole.examples) > 300


def test_samples_of_parts_merge_and_pruning_loses_nothing():
    """Against a full sort: many groups of 30 (where some are pruned below n and sorted as a whole), and one of 50,000."""
    draw = np.random.default_rng(3)
    unit = np.repeat(np.arange(9000), 30)
    unit = np.concatenate([unit, np.full(50_000, 9000)])
    cell = unit * N_INTERVALS + 3
    priority = sample_priority(unit, draw.permutation(len(unit)), 1)
    for n in (1, 3):
        order = np.lexsort((priority, unit))
        rank = np.arange(len(order)) - np.searchsorted(unit[order], unit[order])
        expected = order[rank < n]
        row, rank = uniform_by_interval(cell, priority, n)
        assert np.array_equal(row, expected) and rank.max() == n
        halves = [np.flatnonzero(np.arange(len(unit)) % 2 == half) for half in (0, 1)]
        kept = np.sort(np.concatenate([h[uniform_by_interval(cell[h], priority[h], n)[0]] for h in halves]))
        again, _ = uniform_by_interval(cell[kept], priority[kept], n)
        assert np.array_equal(kept[again], expected)


@pytest.mark.parametrize("n_low_bits", [8, 40])  # keys that differ in bits for which a group of 3,000 leaves no room, or in all
@pytest.mark.parametrize("highest", [False, True])  # none or all above the limit up to which a group's sample is looked for
def test_a_sample_goes_by_whole_priorities(n_low_bits, highest):
    draw = np.random.default_rng(4)
    unit = np.concatenate([draw.integers(0, 3000, 40_000), np.full(100, 3000)])
    priority = draw.integers(0, 1 << n_low_bits, len(unit)).astype(np.uint64)
    priority = ~priority if highest else priority
    row, _ = uniform_by_interval(unit, priority, 4)
    order = np.lexsort((np.arange(len(unit)), priority, unit))
    rank = np.arange(len(order)) - np.searchsorted(unit[order], unit[order])
    assert np.array_equal(row, order[rank < 4])


@pytest.mark.parametrize("apart", [1, 2**20])
def test_token_order_becomes_unit_order(coordinates, apart):
    feature, token, value = coordinates
    found = SparseActivations.from_token_order(feature, 2**40 + token * apart, value, 2**13)
    assert equal(found, SparseActivations.from_arrays(feature, 2**40 + token * apart, value, 2**13))


def test_duckdb_skips_all_row_groups_but_the_features_own(tmp_path):
    n_features, each = 700, 600
    unit = np.repeat(np.arange(n_features), each)
    with CacheWriter(tmp_path / "cache.parquet", n_features) as writer:
        for first in (0, 350):
            part = SparseActivations.from_sorted(
                unit[: 350 * each], np.tile(np.arange(each), 350), np.ones(350 * each, np.float32), 350
            )
            writer.write(part, first)
    file = str(tmp_path / "cache.parquet")
    groups = duckdb.execute(
        """SELECT row_group_num_rows, stats_min_value::INT, stats_max_value::INT FROM parquet_metadata($file)
        WHERE path_in_schema = 'feature' ORDER BY row_group_id""",
        {"file": file},
    ).fetchall()
    assert max(n for n, _, _ in groups) <= ROW_GROUP and sum(n for n, _, _ in groups) == n_features * each
    assert sum(low <= 500 <= high for _, low, high in groups) == 1 < len(groups)
    query = "SELECT count(*), sum(token_index) FROM read_parquet($file) WHERE feature = 500"
    assert duckdb.execute(query, {"file": file}).fetchone() == (each, each * (each - 1) // 2)
    assert SparseActivations.open(file).n_units == n_features
