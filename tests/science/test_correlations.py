"""Feature-unit correlations against numpy's on dense arrays, merged parts against the whole, and planted pairs."""

import numpy as np
import pytest
import torch

from sae_pipeline.features.correlations import Correlations

N, F, M = 900, 12, 7


@pytest.fixture
def dense() -> tuple[np.ndarray, np.ndarray]:
    """Sparse f_NF (column 3 follows unit 5, column 4 unit 2 upside down, column 11 is dead) and units u_NM with means."""
    draw = np.random.default_rng(0)
    u_NM = draw.standard_normal((N, M)) * draw.uniform(0.1, 3, M) + np.array([200.0, -30, 5, 0, 1, 0, 0])
    f_NF = np.maximum(draw.standard_normal((N, F)) - 1.2, 0)
    f_NF[:, 3] = np.maximum(u_NM[:, 5] - 0.3 * u_NM[:, 5].std(), 0)
    f_NF[:, 4] = np.maximum(5 - u_NM[:, 2] - 0.5, 0)
    f_NF[:, 11] = 0
    return f_NF.astype(np.float32), u_NM.astype(np.float32)


def _correlations(f_NF: np.ndarray, u_NM: np.ndarray, shift_M: torch.Tensor, batch: int = 128) -> Correlations:
    made = Correlations.empty(f_NF.shape[1], shift_M)
    for start in range(0, len(f_NF), batch):
        part_NF = f_NF[start : start + batch]
        feature_Z, row_Z = (torch.from_numpy(index) for index in np.nonzero(part_NF.T))
        shuffle_Z = torch.randperm(len(row_Z), generator=torch.Generator().manual_seed(0))
        feature_Z, row_Z = feature_Z[shuffle_Z], row_Z[shuffle_Z]
        value_Z = torch.from_numpy(part_NF)[row_Z, feature_Z]
        made.add(feature_Z, row_Z, value_Z, torch.from_numpy(u_NM[start : start + batch]))
    return made


def test_equals_numpy_of_the_dense_arrays(dense):
    f_NF, u_NM = dense
    expected_FM = np.corrcoef(f_NF[:, :11].T.astype(np.float64), u_NM.T.astype(np.float64))[:11, 11:]
    found_FM = _correlations(f_NF, u_NM, torch.from_numpy(u_NM[:100].mean(0))).pearson()
    assert np.abs(found_FM[:11].numpy() - expected_FM).max() < 1e-6
    assert not found_FM[11].any()  # a dead feature correlates with nothing


def test_the_shift_changes_nothing_but_rounding(dense):
    f_NF, u_NM = dense
    shifted, plain = (_correlations(f_NF, u_NM, torch.from_numpy(u_NM[:9].mean(0)) * on).pearson() for on in (1, 0))
    assert (shifted - plain).abs().max() < 1e-4  # float32 products of a mean of 200 lose three digits


def test_merged_halves_are_the_whole(dense):
    f_NF, u_NM = dense
    shift_M = torch.from_numpy(u_NM[:100].mean(0))
    whole, half, rest = (_correlations(f_NF[part], u_NM[part], shift_M) for part in (slice(None), slice(512), slice(512, None)))
    merged = half.merge(rest)
    assert merged.n_tokens == whole.n_tokens == N
    # The cut lies between two batches, so only the order of additions in float64 differs.
    for name in ("f_F", "f2_F", "u_M", "u2_M", "fu_FM"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=1e-9)
    with pytest.raises(ValueError, match="different shifts"):
        half.merge(Correlations.empty(F, shift_M + 1))


def test_best_finds_the_planted_units(dense):
    f_NF, u_NM = dense
    unit_FK, r_FK = _correlations(f_NF, u_NM, torch.zeros(M)).best(2, features_at_once=5)
    assert unit_FK[3, 0] == 5 and r_FK[3, 0] > 0.7
    assert unit_FK[4, 0] == 2 and r_FK[4, 0] < -0.7
    assert bool((r_FK[:, 0].abs() >= r_FK[:, 1].abs()).all())


def test_best_among_some_units_and_r_with_given_ones(dense):
    f_NF, u_NM = dense
    made = _correlations(f_NF, u_NM, torch.from_numpy(u_NM[:100].mean(0)))
    unit_FK, r_FK = made.best(units=slice(2, 5), features_at_once=5)
    r_FM = made.pearson()
    assert unit_FK[:, 0].tolist() == (r_FM[:, 2:5].abs().argmax(1) + 2).tolist()
    torch.testing.assert_close(made.of(unit_FK[:, 0]), r_FK[:, 0], rtol=0, atol=0)


def test_tokens_without_activity_count():
    u_NM = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    made = Correlations.empty(1, torch.zeros(1))
    made.add(torch.tensor([0]), torch.tensor([0]), torch.tensor([2.0]), u_NM[:2])
    assert made.pearson().item() == pytest.approx(1)
    made.add(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), torch.tensor([]), u_NM[2:])
    assert made.pearson().item() == pytest.approx(1 / np.sqrt(3))
