"""What a step needs beside parameters, gradients, optimizer and the copies in the products' dtype: bounded by tokens alone.

Beside them there is one tile of pre-activations, whatever N and F (64 MiB, and half as much while it is searched by NumPy), made
by the first step. Counted with the gradients is their second form: sums over tokens in the products' dtype, F x D for each of the
two matrices, from which the float32 gradients are made.
"""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sae_pipeline.sae import revive
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.learner import DEAD_AFTER_TOKENS, Learner
from sae_pipeline.sae.matryoshka import Matryoshka
from sae_pipeline.sae.topk import TopK

D, F, N, K = 128, 8192, 1024, 16
PREFIXES = [F // 16, F // 8, F // 4, F // 2, F]
AT_MOST = N * (16 * D + 64 * K)


def allocated_at_most(architecture: Architecture, n_tokens: int = N, n_dead: int = 0, dtype: torch.dtype = torch.bfloat16) -> int:
    """Peak bytes of live arrays made during the second step."""
    learner, draw = Learner(D, F, architecture, dtype), torch.Generator().manual_seed(0)
    learner.learn(torch.randn(n_tokens, D, generator=draw), 0.0, 1e-4)
    learner.tokens_since_active_F[:n_dead] = DEAD_AFTER_TOKENS
    x_ND = torch.randn(n_tokens, D, generator=draw)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as made:
        learner.learn(x_ND, 0.0, 1e-4)
    now = top = 0
    for event in made.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
        if event.name() == "[memory]":
            now += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
            top = max(top, now)
    return top


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("architecture", [TopK(K), BatchTopK(K)], ids=lambda one: one.name)
def test_a_step_allocates_at_most_16_d_plus_64_k_bytes_a_token_and_sums_of_gradients(architecture, dtype):
    sums_of_gradients = 2 * dtype.itemsize * F * D
    measured = allocated_at_most(architecture, dtype=dtype)
    assert sums_of_gradients + N * D * 4 < measured < sums_of_gradients + AT_MOST


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_prefixes_add_an_error_each_and_their_parts_of_the_sums(dtype):
    sums_of_gradients = 2 * dtype.itemsize * F * D
    errors = len(PREFIXES) * N * D * 4  # float32, held until the gradients run through them from the last to the first
    measured = allocated_at_most(Matryoshka(K, PREFIXES), dtype=dtype)
    assert 2 * sums_of_gradients + errors < measured < 2 * sums_of_gradients + errors + AT_MOST


def test_dead_features_add_tiles_of_a_fixed_size_and_rows_of_their_own(monkeypatch):
    """Not an array of tokens x dead features."""
    n_tokens, n_dead, tile = 4 * N, F // 2, 2**18
    monkeypatch.setattr(revive, "TILE_ENTRIES", tile)
    added = allocated_at_most(TopK(K), n_tokens, n_dead) - allocated_at_most(TopK(K), n_tokens)
    rows = n_dead * D * (2 + 2 * 2 * (4 + 2))  # their decoder rows, and both gradients: float32 sums, and one tile's twice
    assert n_dead * D < added < rows + 8 * tile < n_tokens * n_dead * 2 / 2
