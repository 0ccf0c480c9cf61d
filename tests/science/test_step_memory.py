"""What a step needs beside parameters, gradients, optimizer and the copies in the products' dtype: bounded by tokens alone.

Beside them there is one tile of pre-activations, whatever N and F (64 MiB, and half as much while it is searched by NumPy).
"""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.learner import Learner
from sae_pipeline.sae.topk import TopK

D, F, N, K = 128, 8192, 1024, 16


def allocated_at_most(architecture: Architecture) -> int:
    """Peak bytes of live arrays made during the second step."""
    learner, draw = Learner(D, F, architecture, torch.bfloat16), torch.Generator().manual_seed(0)
    learner.learn(torch.randn(N, D, generator=draw), 0.0, 1e-4)
    x_ND = torch.randn(N, D, generator=draw)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as made:
        learner.learn(x_ND, 0.0, 1e-4)
    now = top = 0
    for event in made.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
        if event.name() == "[memory]":
            now += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
            top = max(top, now)
    return top


@pytest.mark.parametrize("architecture", [TopK(K), BatchTopK(K)], ids=lambda one: one.name)
def test_a_step_allocates_at_most_16_d_plus_64_k_bytes_a_token(architecture):
    sums_of_gradients = 2 * 2 * F * D  # in bfloat16, before they go to the float32 gradients
    measured = allocated_at_most(architecture) - sums_of_gradients
    assert N * D * 4 < measured < N * (16 * D + 64 * K)
    assert measured < N * F  # less than half of the pre-activations would be
