"""Metrics against NumPy in float64, straight from the definitions."""

import itertools

import numpy as np
import pytest
import torch

from sae_pipeline.sae.metrics import Activity, Reconstruction, ce_recovered, kl_divergence, next_token_cross_entropy

D, N = 12, 500


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(N, D, generator=generator) * torch.linspace(0.1, 20, D) + 100
    return x_ND, x_ND + 0.3 * torch.randn(N, D, generator=generator) * torch.linspace(1, 3, D)


def measured(pair, cuts=(0, N)) -> Reconstruction:
    total = Reconstruction(D)
    for a, b in itertools.pairwise(cuts):
        part = Reconstruction(D)
        part.add(pair[0][a:b], pair[1][a:b])
        total.merge(part)
    return total


def test_explained_variance_is_about_the_mean_of_the_evaluated_tokens(pair):
    x, x_hat = (value.double().numpy() for value in pair)
    error, deviation = x - x_hat, x - x.mean(0)
    got = measured(pair)
    assert got.explained_variance() == pytest.approx(1 - (error**2).sum() / (deviation**2).sum(), abs=1e-9)
    standardized = 1 - ((error / x.std(0)) ** 2).sum() / ((deviation / x.std(0)) ** 2).sum()
    assert got.explained_variance_standardized() == pytest.approx(standardized, abs=1e-9)
    assert got.explained_variance_standardized() < got.explained_variance() - 0.05  # small dimensions count as much as large ones
    assert got.mse() == pytest.approx((error**2).mean())


def test_sums_do_not_depend_on_the_cuts(pair):
    assert measured(pair, (0, 1, 130, N)).explained_variance() == pytest.approx(measured(pair).explained_variance(), abs=1e-12)


def test_a_constant_dimension_does_not_spoil_the_standardized_form(pair):
    x_ND, x_hat_ND = pair[0].clone(), pair[1].clone()
    x_ND[:, 3], x_hat_ND[:, 3] = 7.0, 7.5
    kept = [d for d in range(D) if d != 3]
    expected = measured((pair[0], pair[1]))
    assert measured((x_ND, x_hat_ND)).explained_variance_standardized() == pytest.approx(
        float(1 - (expected.error_D / expected._variation_D)[kept].mean()), abs=1e-6
    )


def test_l0_and_alive():
    activity = Activity(5)
    activity.add(3, torch.tensor([0, 1, 1, 4], dtype=torch.int32))
    activity.add(1, torch.tensor([1], dtype=torch.int32))
    assert activity.l0() == 5 / 4 and activity.alive_fraction() == 3 / 5
    assert activity.count_F.tolist() == [1, 3, 0, 0, 1]


def test_cross_entropy_and_kl_equal_their_definitions():
    generator = torch.Generator().manual_seed(1)
    clean, other = 3 * torch.randn(7, 50, generator=generator), 3 * torch.randn(7, 50, generator=generator)
    target = torch.arange(7)
    p = torch.softmax(clean.double(), 1).numpy()
    q = torch.softmax(other.double(), 1).numpy()
    np.testing.assert_allclose(next_token_cross_entropy(clean, target), -np.log(p[range(7), range(7)]), rtol=1e-5)
    np.testing.assert_allclose(kl_divergence(clean, other), (p * np.log(p / q)).sum(1), rtol=1e-4)
    assert kl_divergence(clean, clean).abs().max() < 1e-5


def test_ce_recovered():
    assert ce_recovered(ce_clean=2.0, ce_spliced=2.5, ce_ablated=12.0) == pytest.approx(0.95)
    assert ce_recovered(ce_clean=2.0, ce_spliced=2.0, ce_ablated=12.0) == 1.0
    assert ce_recovered(ce_clean=2.0, ce_spliced=2.5, ce_ablated=1.9) is None
