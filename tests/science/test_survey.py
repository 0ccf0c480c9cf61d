"""Neighbours against a full sort; the map keeps neighbours near; both tables hold what was found."""

import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.errors import UserError
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study_survey import Neighbourhoods
from sae_pipeline.survey import neighbours
from sae_pipeline.survey.build import MAP, NEIGHBOURS, build_neighbourhoods
from sae_pipeline.survey.neighbours import nearest_features, nearest_to
from sae_pipeline.tables.files import check_file

D = 24


def clustered(n: int, seed: int) -> np.ndarray:
    """Unit rows around four centres that are the same for every seed: rows i and i + 4 belong together."""
    centres = np.random.default_rng(99).normal(size=(4, D))
    rows = centres[np.arange(n) % 4] + 0.3 * np.random.default_rng(seed).normal(size=(n, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_full_sort(queries: np.ndarray, rows: np.ndarray, n: int, same: bool) -> tuple[np.ndarray, np.ndarray]:
    cosine = queries.astype(np.float64) @ rows.astype(np.float64).T
    if same:
        np.fill_diagonal(cosine, -2)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(n, len(rows) - same)]
    return order, np.take_along_axis(cosine, order, axis=1)


@pytest.mark.parametrize(
    ("n_rows", "n", "same"), [(700, 15, True), (700, 15, False), (64 * 40, 7, True), (9, 15, True), (1, 3, True)]
)
def test_neighbours_equal_those_of_a_full_sort(n_rows: int, n: int, same: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbours, "QUERIES_AT_ONCE", 100)
    rows = clustered(n_rows, 1)
    queries = rows if same else clustered(130, 2)
    found = list(nearest_features(queries, rows, n, same))
    assert [start for start, _, _ in found] == list(range(0, len(queries), 100))
    neighbour = np.concatenate([each for _, each, _ in found])
    cosine = np.concatenate([each for _, _, each in found])
    order, expected = by_full_sort(queries, rows, n, same)
    assert neighbour.shape == order.shape
    np.testing.assert_allclose(cosine, expected, atol=1e-5)
    # Different in double precision only where two cosines are equal in single precision.
    differs = neighbour != order
    assert np.abs(cosine - np.take_along_axis(queries @ rows.T, order, axis=1))[differs].max(initial=0) < 1e-6


def test_equal_rows_are_each_other_s_neighbours_and_never_their_own():
    rows = np.repeat(clustered(3, 0), 50, axis=0)
    for start, neighbour, cosine in nearest_features(rows, rows, 5, same=True):
        own = start + np.arange(len(neighbour))
        assert (neighbour != own[:, None]).all() and (neighbour // 50 == (own // 50)[:, None]).all()
        np.testing.assert_allclose(cosine, 1, atol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("saes")
    for size in (8, 200):
        rows = torch.from_numpy(clustered(size, size))
        weights = {
            "W_enc_FD": rows.clone(), "b_enc_F": torch.zeros(size), "W_dec_FD": rows, "b_dec_D": torch.zeros(D),
            "threshold_F": torch.ones(size), "mean_D": torch.zeros(D),
        }  # fmt: skip
        config = {"architecture": "batch_topk", "n_features": size, "d_model": D, "scale": 1.0, "threshold_norm": 1e6}
        SparseAutoencoder(weights, config).save(root / str(size))
    return {size: root / str(size) for size in (8, 200)}


@pytest.fixture(scope="module")
def built(folders: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    outcome = build_neighbourhoods(folders, Neighbourhoods(), work)
    assert outcome.metadata["n_features"] == 208
    return work


def test_memory_of_the_neighbour_search_grows_with_the_features_and_not_with_their_square(monkeypatch):
    monkeypatch.setattr(neighbours, "QUERIES_AT_ONCE", 64)

    def peak(n_features: int) -> int:
        rows_FD = np.random.default_rng(0).standard_normal((n_features, 8), dtype=np.float32)
        tracemalloc.start()
        for _ in nearest_features(rows_FD, rows_FD, 5, same=True):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(2048), peak(8192)
    assert large < 6 * small, "four times the features, not sixteen times the memory"
    assert large < 4 * 8192**2 / 16


def test_both_tables_follow_their_schemas_and_hold_every_feature(built: Path):
    # Size 8 has 7 neighbours within itself and 8 seen from 200; 15 are kept of size 200.
    assert check_file("feature_neighbours", built / NEIGHBOURS) == 8 * (7 + 15) + 200 * (8 + 15)
    assert check_file("feature_map", built / MAP) == 208


def test_the_stored_neighbours_are_the_exact_ones(built: Path):
    stored = pl.read_parquet(built / NEIGHBOURS)
    for size, other in ((8, 8), (8, 200), (200, 8), (200, 200)):
        rows = stored.filter((pl.col("size") == size) & (pl.col("neighbour_size") == other)).sort("feature", "rank")
        order, cosine = by_full_sort(clustered(size, size), clustered(other, other), 15, size == other)
        assert rows["neighbour"].to_numpy().reshape(size, -1).tolist() == order.tolist()
        np.testing.assert_allclose(rows["cosine"].to_numpy().reshape(size, -1), cosine, atol=1e-5)


def test_features_of_one_kind_lie_together_on_the_map_across_sizes(built: Path):
    places = pl.read_parquet(built / MAP).sort("size", "feature")
    xy = places.select("x", "y").to_numpy().astype(np.float64)
    kind = places["feature"].to_numpy() % 4
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    agree = (kind[np.argsort(distance, axis=1)[:, :5]] == kind[:, None]).mean()
    assert agree > 0.9, agree


def test_the_same_directions_give_the_same_bytes(built: Path, folders: dict[int, Path], tmp_path: Path):
    build_neighbourhoods(folders, Neighbourhoods(), tmp_path)
    for name in (NEIGHBOURS, MAP):
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes()


def test_torch_keeps_its_number_of_threads(folders: dict[int, Path], tmp_path: Path):
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            build_neighbourhoods(folders, Neighbourhoods(), tmp_path)
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)


def test_sizes_too_small_for_a_neighbour_graph_still_have_places(tmp_path: Path, folders: dict[int, Path]):
    rows = torch.from_numpy(clustered(1, 0))
    weights = {
        "W_enc_FD": rows.clone(), "b_enc_F": torch.zeros(1), "W_dec_FD": rows, "b_dec_D": torch.zeros(D),
        "threshold_F": torch.ones(1), "mean_D": torch.zeros(D),
    }  # fmt: skip
    config = {"architecture": "batch_topk", "n_features": 1, "d_model": D, "scale": 1.0, "threshold_norm": 1e6}
    SparseAutoencoder(weights, config).save(tmp_path / "one")
    (tmp_path / "alone").mkdir()
    build_neighbourhoods({1: tmp_path / "one"}, Neighbourhoods(), tmp_path / "alone")
    assert pl.read_parquet(tmp_path / "alone" / MAP).height == 1
    (tmp_path / "both").mkdir()
    build_neighbourhoods({1: tmp_path / "one", 8: folders[8]}, Neighbourhoods(), tmp_path / "both")
    assert pl.read_parquet(tmp_path / "both" / MAP).height == 9


def test_one_feature_s_neighbours_are_those_of_the_table(built: Path, folders: dict[int, Path]):
    direction = neighbours.decoder_row(folders[8], 3)
    stored = pl.read_parquet(built / NEIGHBOURS).filter(
        (pl.col("size") == 8) & (pl.col("feature") == 3) & (pl.col("neighbour_size") == 200)
    )
    found = nearest_to(folders[200], direction, 15)
    assert [feature for feature, _ in found] == stored.sort("rank")["neighbour"].to_list()
    assert 3 not in [feature for feature, _ in nearest_to(folders[8], direction, 8, without=3)]
    with pytest.raises(UserError, match="is not there"):
        nearest_to(folders[8].parent / "9", direction, 3)
