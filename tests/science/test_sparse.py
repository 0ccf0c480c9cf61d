import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_pipeline.features.intervals import interval_of
from sae_pipeline.features.sparse import SparseActivations


@pytest.fixture
def dense_NU():
    generator = np.random.default_rng(0)
    dense = generator.random((40, 7)).astype(np.float32)
    dense[dense < 0.7] = 0
    dense[:, 2] = 0
    dense[:, 6] = 0  # the last unit is never active
    return dense


def test_from_arrays_is_the_dense_matrix_column_by_column(dense_NU):
    token, unit = np.nonzero(dense_NU)
    shuffled = np.random.default_rng(1).permutation(len(token))
    sparse = SparseActivations.from_arrays(unit[shuffled], token[shuffled], dense_NU[token, unit][shuffled], n_units=7)
    assert sparse.n_units == 7
    for u in range(7):
        tokens, values = sparse.of(u)
        np.testing.assert_array_equal(tokens, np.flatnonzero(dense_NU[:, u]))
        np.testing.assert_array_equal(values, dense_NU[tokens, u])
    np.testing.assert_array_equal(sparse.max_U, dense_NU.max(0))
    np.testing.assert_array_equal(sparse.count_U, (dense_NU > 0).sum(0))


def test_open_reads_back_and_knows_silent_units(dense_NU, tmp_path):
    token, unit = np.nonzero(dense_NU)
    order = np.lexsort((token, unit))
    table = pa.table(
        {"feature": unit[order].astype(np.int32), "token_index": token[order], "value": dense_NU[token, unit][order]}
    )
    pq.write_table(table.replace_schema_metadata({"n_units": "7"}), tmp_path / "sorted.parquet")
    sparse = SparseActivations.open(tmp_path / "sorted.parquet")
    assert sparse.n_units == 7 and sparse.max_U[6] == 0
    np.testing.assert_array_equal(sparse.of(0)[0], np.flatnonzero(dense_NU[:, 0]))

    pq.write_table(table, tmp_path / "no_metadata.parquet")
    with pytest.raises(ValueError, match="n_units"):
        SparseActivations.open(tmp_path / "no_metadata.parquet")
    pq.write_table(table.take(np.arange(len(table))[::-1]).replace_schema_metadata({"n_units": "7"}), tmp_path / "r.parquet")
    with pytest.raises(ValueError, match="not sorted"):
        SparseActivations.open(tmp_path / "r.parquet")


def test_no_activations_at_all():
    none = np.zeros(0, np.int64)
    sparse = SparseActivations.from_arrays(none, none, none.astype(np.float32), n_units=3)
    assert sparse.max_U.tolist() == [0, 0, 0] and len(sparse.of(1)[0]) == 0


def test_a_unit_out_of_range_is_an_error():
    with pytest.raises(ValueError, match="there are 2"):
        SparseActivations.from_arrays(np.array([2]), np.array([0]), np.array([1.0]), n_units=2)


def test_intervals_are_half_open_and_the_maximum_is_in_the_top_one():
    values = np.array([0.01, 1.0, 1.01, 9.0, 9.5, 10.0, 12.0])
    assert interval_of(values, 10.0).tolist() == [1, 1, 2, 9, 10, 10, 10]
    assert interval_of(np.array([3.0]), 0.0).tolist() == [10]
