"""Which entries each architecture keeps, whatever it guessed from the last batch."""

import pytest
import torch

from sae_pipeline.sae import kernels, preactivations
from sae_pipeline.sae.architecture import all_positive
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.jumprelu import JumpReLU
from sae_pipeline.sae.matryoshka import prefix_lengths
from sae_pipeline.sae.parameters import Published, initial_parameters
from sae_pipeline.sae.preactivations import PreActivations
from sae_pipeline.sae.topk import TopK
from tests.science.test_sae_gradients import D, F, K, N, batch


def given(z: torch.Tensor) -> PreActivations:
    """Pre-activations that are just this matrix."""
    n_features = z.shape[1]
    weights = Published(torch.eye(n_features), torch.zeros(n_features), torch.eye(n_features), torch.ones(n_features))
    return PreActivations(n_features, torch.float32, z.device).compute(z, weights)


def flat(pairs, n_features: int) -> set[int]:
    return set((pairs.token_P.long() * n_features + pairs.feature_P).tolist())


@pytest.mark.parametrize("n_tokens", [N, 7])
def test_after_a_dense_batch_entries_are_counted_before_they_are_sought(n_tokens, monkeypatch):
    """And no further than it takes to know; sparse again as soon as there are few."""
    monkeypatch.setattr(preactivations, "TILE_ENTRIES", n_tokens * F)
    monkeypatch.setattr(kernels, "SCANNED_AT_ONCE", F)
    many, few = torch.ones(N, F), -torch.ones(N, F)
    few[3, 5] = 2.0
    z, counted, sought = given(many), [], []
    count, above = kernels.n_positive, PreActivations.above
    monkeypatch.setattr(kernels, "n_positive", lambda part_RF: counted.append(len(part_RF)) or count(part_RF))
    monkeypatch.setattr(PreActivations, "above", lambda self, threshold: sought.append(1) or above(self, threshold))
    weights = z._weights
    found = [all_positive(z.compute(x_NF, weights), 2 * F) for x_NF in (many, many, few, few)]
    assert [one is None for one in found] == [True, True, False, False]
    assert len(sought) == 3 and sum(counted) == 3 + N
    assert found[2] is not None and flat(found[2], F) == {3 * F + 5}


def test_batch_topk_keeps_exactly_k_n_whatever_it_guessed():
    z = torch.randn(64, 200, generator=torch.Generator().manual_seed(2))
    expected = set(z.flatten().topk(64 * K).indices.tolist())
    fresh, misled = BatchTopK(K), BatchTopK(K)
    misled.load_state({"last_smallest": 100.0, "average": 0.0, "weight": 0.0})
    for architecture in (fresh, misled):
        assert flat(architecture.select(given(z), z.numel()), 200) == expected
        smallest = float(z.flatten().topk(64 * K).values.min())
        assert architecture.threshold == pytest.approx(smallest)


def test_batch_topk_keeps_only_what_is_positive():
    z = -torch.ones(8, 50)
    z[3, 7] = 2.0
    pairs = BatchTopK(K).select(given(z), z.numel())
    assert (pairs.token_P.tolist(), pairs.feature_P.tolist()) == ([3], [7])


def test_prefixes_grow_by_at_least_one_feature():
    assert prefix_lengths(64, (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)) == [4, 8, 16, 32, 64]
    assert prefix_lengths(5, (0.01, 0.02, 0.5, 1.0)) == [1, 2, 3, 5]


def test_jumprelu_starts_with_every_feature_active_on_its_share_of_the_batch():
    n_features = 30_000
    architecture = JumpReLU(5.0, "tanh", D)
    made = initial_parameters(
        n_features, D, architecture.initial_decoder_norm, torch.Generator().manual_seed(0), "cpu",
        architecture.own_parameters(n_features),
    )  # fmt: skip
    with torch.no_grad():
        architecture.prepare(made, batch())
    z = batch() @ made.W_enc_FD.T + made.b_enc_F
    assert ((z >= 0.1 - 1e-8).sum(0) - round(N / 3)).abs().max() <= 1


def test_topk_finds_the_same_entries_with_any_guess():
    """Rows with fewer candidates than k are ranked whole; so is everything when the guess is of no use."""
    z = torch.randn(64, 200, generator=torch.Generator().manual_seed(2))
    z[5] -= 1.0
    z[9] = -1.0
    z[9, 17] = 0.5
    expected = {row * 200 + int(i) for row in range(64) for i in z[row].topk(K).indices if z[row, i] > 0}
    for guess in (0.0, 0.02, 0.1, 0.15, 10.0):  # in units of norms of about 14
        architecture = TopK(K)
        architecture.load_state({"guess": guess})
        assert flat(architecture.select(given(z), z.numel()), 200) == expected
        assert 0 <= architecture.state()["guess"] < 0.2
