"""The GPU path on a GPU: against the CPU, without waiting for the device, to the same bits every time."""

import pytest
import torch

from sae_pipeline.sae import gpu, learner
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.gated import Gated
from sae_pipeline.sae.jumprelu import JumpReLU
from sae_pipeline.sae.lagged import LAG_STEPS
from sae_pipeline.sae.learner import Learner
from sae_pipeline.sae.matryoshka import Matryoshka, prefix_lengths
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.step import Step
from sae_pipeline.sae.topk import TopK

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

D, F, N, K = 300, 6000, 1500, 16  # nothing a multiple of a block; more than one tile
ARCHITECTURES = {
    "relu_l1": lambda: ReluL1(5.0),
    "topk": lambda: TopK(K),
    "batch_topk": lambda: BatchTopK(K),
    "gated": lambda: Gated(5.0),
    "jumprelu tanh": lambda: JumpReLU(5.0, "tanh", D),
    "jumprelu step": lambda: JumpReLU(5.0, "step", D),
    "matryoshka": lambda: Matryoshka(K, prefix_lengths(F, (0.1, 0.3, 1.0))),
}
EVERY = pytest.mark.parametrize("name", ARCHITECTURES)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def batch(seed: int) -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


def made(name: str, dtype: torch.dtype, device: str, few: bool = True) -> Learner:
    """A learner whose pre-activations are mostly negative: few entries."""
    architecture: Architecture = ARCHITECTURES[name]()
    one = Learner(D, F, architecture, dtype, 0, device)
    if few and architecture.entries_per_token() is None:
        one.parameters.b_enc_F.data.fill_(-2.6 * one.parameters.W_enc_FD.norm(dim=1).mean().item())
        one.step.n_entries.value = 1
    return one


@pytest.mark.parametrize("share", [1.0, 0.0])
@EVERY
def test_gradients_are_those_of_the_cpu(name, share):
    results = []
    for device in ("cpu", "cuda:0"):
        one = made(name, torch.float32, device)
        dead_F = torch.arange(F, device=device) % 50 == 0
        step = Step(one.parameters, one.architecture, torch.float32, share)
        step.n_entries.value = 1
        result = step(batch(0).to(device), 1.0, dead_F, None if device == "cpu" else int(dead_F.sum()))
        results.append((result, one.parameters.named()))
    (cpu, expected), (cuda, measured) = results
    assert float(cuda.loss) == pytest.approx(float(cpu.loss), rel=1e-4) and not cuda.is_short
    for key, value in expected.items():
        assert (measured[key].grad.cpu() - value.grad).norm() < 1e-3 * value.grad.norm(), key


@DTYPES
@EVERY
def test_steps_do_not_wait_for_the_device(name, dtype, monkeypatch):
    monkeypatch.setattr(learner, "DEAD_AFTER_TOKENS", 2 * N)
    one = made(name, dtype, "cuda:0", few=False)
    batches = [batch(seed) for seed in range(LAG_STEPS + 6)]
    one.prepare(batches[0].to("cuda:0"))

    def learn(x_ND: torch.Tensor) -> None:
        one.learn(gpu.sent(x_ND, "cuda:0"), 1.0, 1e-3)

    for share in (1.0, 0.0):  # kernels are compiled, and both forms have had their turn
        one.step.dense_above_share = share
        for x_ND in batches:
            learn(x_ND)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for share in (1.0, 0.0):
            one.step.dense_above_share = share
            for x_ND in batches:
                learn(x_ND)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert one.parameters.W_dec_FD.isfinite().all()


@DTYPES
@EVERY
def test_equal_runs_give_equal_bits(name, dtype):
    runs = []
    for _ in range(2):
        one = made(name, dtype, "cuda:0")
        for seed in range(LAG_STEPS + 4):
            one.learn(batch(seed).to("cuda:0"), 1.0, 1e-3)
        runs.append(one.tensors())
    for key, value in runs[0].items():
        assert torch.equal(value, runs[1][key]), key


@DTYPES
def test_training_learns(dtype):
    """A planted dictionary: the loss falls on the GPU as it does on the CPU."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(400, D, generator=draw), dim=1)
    x_ND = torch.zeros(8 * N, D)
    for _ in range(8):
        x_ND += torch.rand(8 * N, 1, generator=draw) * directions[torch.randint(400, (8 * N,), generator=draw)]
    x_ND *= (D / x_ND.square().sum(1).mean()).sqrt()
    after = []
    for device in ("cpu", "cuda:0"):
        one = made("batch_topk", dtype, device)
        for step in range(40):
            result = one.learn(x_ND[step % 8 * N :][:N].to(device), 0.0, 1e-3)[0]
        after.append(float(result.explained_variance))
    assert after[0] > 0.3 and after[1] == pytest.approx(after[0], abs=0.02)
