"""Every architecture's hand-written gradients against float64 autograd of the textbook loss, in the sparse and the dense form."""

import pytest
import torch

from sae_pipeline.sae import preactivations, revive
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.gated import Gated
from sae_pipeline.sae.jumprelu import JumpReLU
from sae_pipeline.sae.matryoshka import Matryoshka
from sae_pipeline.sae.parameters import Parameters, initial_parameters, published
from sae_pipeline.sae.preactivations import PreActivations
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.step import Step
from sae_pipeline.sae.topk import TopK

D, F, N, K = 20, 70, 48, 5
LENGTHS = [4, 9, 30, 70]
PENALTY = 1.7
NEVER_DENSE, ALWAYS_DENSE = 1.0, 0.0


class ReluL1WithoutBias(ReluL1):
    """An encoder that sees x itself, as an architecture may ask for."""

    subtracts_decoder_bias = False


ARCHITECTURES = {
    "relu_l1": lambda: ReluL1(5.0),
    "relu_l1 without b_dec": lambda: ReluL1WithoutBias(5.0),
    "topk": lambda: TopK(K),
    "batch_topk": lambda: BatchTopK(K),
    "gated": lambda: Gated(5.0),
    "jumprelu tanh": lambda: JumpReLU(5.0, "tanh", D),
    "jumprelu step": lambda: JumpReLU(5.0, "step", 50_000),  # a window wide enough to have many entries in it
    "matryoshka": lambda: Matryoshka(K, LENGTHS),
}


def penalty_of(name: str) -> float:
    return 0.0 if name in ("topk", "batch_topk", "matryoshka") else PENALTY


def parameters(name: str = "topk") -> Parameters:
    """Decoder norms far from 1 and biases not zero, so that every term of the gradients counts."""
    generator = torch.Generator().manual_seed(0)
    made = initial_parameters(F, D, 1.0, generator, "cpu", ARCHITECTURES[name]().own_parameters(F))
    made.W_dec_FD.data *= 0.2 + 2 * torch.rand(F, 1, generator=generator)
    made.W_enc_FD.data += 0.1 * torch.randn(F, D, generator=generator)
    made.b_enc_F.data.normal_(0, 0.3, generator=generator)
    made.b_dec_D.data.normal_(0, 0.3, generator=generator)
    for key, value in made.own.items():
        if key == "log_threshold_F":
            value.data.uniform_(-1.5, 0.2, generator=generator)
        else:
            value.data.normal_(0, 0.3, generator=generator)
    return made


def batch() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1))


class Jump(torch.autograd.Function):
    """z H(z - theta) and its straight-through estimate, as written in the update (and in Rajamanoharan et al. 2024)."""

    @staticmethod
    def forward(ctx, z, theta, width):
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return z * (z > theta)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        z, theta = ctx.saved_tensors
        box = ((z - theta).abs() < ctx.width / 2).double()
        return grad * (z > theta), (-(theta / ctx.width) * box * grad).sum(0), None


class Count(torch.autograd.Function):
    """H(z - theta), with a straight-through gradient for the threshold only."""

    @staticmethod
    def forward(ctx, z, theta, width):
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return (z > theta).double()

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        z, theta = ctx.saved_tensors
        box = ((z - theta).abs() < ctx.width / 2).double()
        return torch.zeros_like(z), (-(1 / ctx.width) * box * grad).sum(0), None


def textbook(name: str, width: float = 0.0) -> tuple[dict[str, torch.Tensor], float, int]:
    """Gradients, loss and number of active pairs by autograd in float64, dense, straight from the definitions."""
    p = {key: value.detach().double().requires_grad_() for key, value in parameters(name).named().items()}
    x = batch().double()
    W_enc, b_enc, W_dec, b_dec = (p[key] for key in ("W_enc_FD", "b_enc_F", "W_dec_FD", "b_dec_D"))
    seen = x if name == "relu_l1 without b_dec" else x - b_dec
    z = seen @ W_enc.T + b_enc
    f = torch.relu(z)
    norm = W_dec.norm(dim=1)
    rank = (f * norm).detach()
    extra = torch.zeros((), dtype=torch.float64)
    if name == "topk":
        f = f * (rank >= rank.topk(K, dim=1).values[:, -1:])
    if name in ("batch_topk", "matryoshka"):
        f = f * (rank >= rank.flatten().topk(K * N).values[-1])
    if name.startswith("relu_l1"):
        extra = PENALTY * (f * norm).sum(1).mean()
    if name.startswith("jumprelu"):
        theta = p["log_threshold_F"].exp()
        f = Jump.apply(z, theta, width)
        if name.endswith("tanh"):
            short = torch.relu(theta - z) * norm
            extra = PENALTY * torch.tanh(4 * f * norm).sum(1).mean() + 3e-6 * short.sum(1).mean()
        else:
            extra = PENALTY * Count.apply(z, theta, width).sum(1).mean()
    if name == "gated":
        is_open = (z > 0).double()
        magnitude = torch.exp(p["r_mag_F"]) * (seen @ W_enc.T) + p["b_mag_F"]
        gate_error = x - torch.relu(z) @ W_dec.detach() - b_dec.detach()
        extra = gate_error.square().sum(1).mean() + PENALTY * (torch.relu(z) * norm.detach()).sum(1).mean()
        f = is_open * torch.relu(magnitude)
    if name == "matryoshka":
        errors = [x - f[:, :length] @ W_dec[:length] - b_dec for length in LENGTHS]
        loss = torch.stack([error.square().sum(1).mean() for error in errors]).mean()
    else:
        loss = (x - f @ W_dec - b_dec).square().sum(1).mean() + extra
    loss.backward()
    gradients = {key: value.grad for key, value in p.items() if value.grad is not None}
    return gradients, float(loss.detach()), int((f > 0).sum())


def check(name: str, made: Parameters, result, tolerance: float, width: float = 0.0) -> None:
    expected, loss, n_active = textbook(name, width)
    assert float(result.loss) == pytest.approx(loss, rel=tolerance)
    assert float(result.l0) * N == pytest.approx(n_active, rel=tolerance)
    assert expected.keys() == made.named().keys()
    for key, value in made.named().items():
        assert value.grad is not None
        difference = (value.grad.double() - expected[key]).norm() / expected[key].norm()
        assert difference < tolerance, key


@pytest.mark.parametrize("dense_above_share", [NEVER_DENSE, ALWAYS_DENSE])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_equal_float64_autograd(name, dense_above_share):
    made, architecture = parameters(name), ARCHITECTURES[name]()
    step = Step(made, architecture, torch.float32, dense_above_share)
    result = step(batch(), penalty_of(name))
    assert step.was_dense == (dense_above_share == ALWAYS_DENSE)
    check(name, made, result, 3e-6, getattr(architecture, "bandwidth", 0.0))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_form_is_chosen_by_the_density_of_the_batch(name):
    architecture, made = ARCHITECTURES[name](), parameters(name)
    with torch.no_grad():
        weights = published(made, torch.float32, architecture.subtracts_decoder_bias, shift_F=architecture.shift(made))
    z = PreActivations(F, torch.float32, torch.device("cpu")).compute(batch(), weights)
    pairs = ARCHITECTURES[name]().select(z, N * F)
    assert pairs is not None and pairs.n_pairs > K
    density = pairs.n_pairs / (N * F)
    for share, dense in ((density * 1.01, False), (density * 0.99, True)):
        step = Step(parameters(name), ARCHITECTURES[name](), torch.float32, share)
        step(batch(), penalty_of(name))
        assert step.was_dense == dense


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tiles_of_tokens_give_the_same_step(name, monkeypatch):
    whole, tiled = parameters(name), parameters(name)
    dead_F = torch.arange(F) % 9 == 0
    whole_result = Step(whole, ARCHITECTURES[name](), torch.float32)(batch(), penalty_of(name), dead_F)
    monkeypatch.setattr(preactivations, "TILE_ENTRIES", 7 * F)
    monkeypatch.setattr(revive, "TILE_ENTRIES", 7 * int(dead_F.sum()))
    tiled_result = Step(tiled, ARCHITECTURES[name](), torch.float32)(batch(), penalty_of(name), dead_F)
    torch.testing.assert_close(whole_result.loss, tiled_result.loss)
    for one, other in zip(whole.named().values(), tiled.named().values(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka"])
def test_bfloat16_products_give_nearly_the_same_gradients(name):
    made = parameters(name)
    result = Step(made, ARCHITECTURES[name](), torch.bfloat16)(batch(), 0.0)
    check(name, made, result, 0.05)


def test_finite_differences_agree_with_the_penalised_loss():
    """Independent of autograd: the loss that the step itself reports falls by |gradient|² h along its own gradient."""
    made, h = parameters(), 1e-4
    step = Step(made, ReluL1(5.0), torch.float32, NEVER_DENSE)
    before = float(step(batch(), 1.7).loss)
    slope = sum(float(value.grad.square().sum()) for value in made.named().values() if value.grad is not None)
    for value in made.named().values():
        assert value.grad is not None
        value.data -= h / slope * value.grad
    assert (before - float(step(batch(), 1.7).loss)) / h == pytest.approx(1.0, abs=0.1)


def test_penalty_warms_up_over_the_first_twentieth_and_grows_with_centring():
    for architecture in (ReluL1(5.0, center_share=0.75), Gated(5.0, center_share=0.75)):
        assert [architecture.penalty(step, 1000) for step in (0, 25, 50, 999)] == pytest.approx([0, 5, 10, 10])
    assert ReluL1(5.0).penalty(999, 1000) == 5.0
    assert [JumpReLU(8.0, "tanh", D).penalty(step, 1000) for step in (499, 999)] == pytest.approx([4, 8])
    assert [JumpReLU(8.0, "step", D).penalty(step, 1000) for step in (24, 49, 999)] == pytest.approx([4, 8, 8])
    assert [JumpReLU(8.0, "tanh", D, 0.1).penalty(step, 1000) for step in (49, 99, 999)] == pytest.approx([4, 8, 8])


@pytest.mark.parametrize("k_aux", [3, 256])
def test_auxk_gradients_equal_float64_autograd(k_aux, monkeypatch):
    monkeypatch.setattr(revive, "K_AUX", k_aux)
    dead_F = torch.zeros(F, dtype=torch.bool)
    dead_F[[1, 8, 20, 33, 47, 60, 69]] = True
    made = parameters()
    Step(made, TopK(K), torch.float32)(batch(), 0.0, dead_F)

    p = {key: value.detach().double().requires_grad_() for key, value in parameters().named().items()}
    x = batch().double()
    f = torch.relu((x - p["b_dec_D"]) @ p["W_enc_FD"].T + p["b_enc_F"])
    rank = (f * p["W_dec_FD"].norm(dim=1)).detach()
    x_hat = (f * (rank >= rank.topk(K, dim=1).values[:, -1:])) @ p["W_dec_FD"] + p["b_dec_D"]
    rank = rank * dead_F
    kept = (rank >= rank.topk(min(k_aux, int(dead_F.sum())), dim=1).values[:, -1:]) & dead_F
    aux = ((x - x_hat).detach() - (f * kept) @ p["W_dec_FD"]).square().sum(1).mean()
    (((x - x_hat) ** 2).sum(1).mean() + aux / 32).backward()
    for key, value in made.named().items():
        expected = p[key].grad
        assert value.grad is not None and expected is not None
        assert (value.grad.double() - expected).norm() / expected.norm() < 2e-6, key
    without = parameters()
    Step(without, TopK(K), torch.float32)(batch(), 0.0)
    assert without.W_dec_FD.grad is not None and made.W_dec_FD.grad is not None
    changed_F = (without.W_dec_FD.grad - made.W_dec_FD.grad).abs().amax(1) > 1e-6
    assert changed_F[dead_F].any() and not changed_F[~dead_F].any()
