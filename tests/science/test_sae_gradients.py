"""Every architecture's hand-written gradients against float64 autograd of the textbook loss."""

import pytest
import torch

from sae_pipeline.sae import relu_l1, revive
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.parameters import Parameters, initial_parameters
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.step import Step
from sae_pipeline.sae.topk import TopK

D, F, N, K = 20, 70, 48, 5
ARCHITECTURES = {"relu_l1": lambda: ReluL1(5.0), "topk": lambda: TopK(K), "batch_topk": lambda: BatchTopK(K)}


def parameters() -> Parameters:
    """Decoder norms far from 1 and biases not zero, so that every term of the gradients counts."""
    generator = torch.Generator().manual_seed(0)
    made = initial_parameters(F, D, 1.0, generator, "cpu")
    made.W_dec_FD.data *= 0.2 + 2 * torch.rand(F, 1, generator=generator)
    made.W_enc_FD.data += 0.1 * torch.randn(F, D, generator=generator)
    made.b_enc_F.data.normal_(0, 0.3, generator=generator)
    made.b_dec_D.data.normal_(0, 0.3, generator=generator)
    return made


def batch() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1))


def textbook(name: str, penalty: float) -> tuple[dict[str, torch.Tensor], float, int]:
    """Gradients, loss and number of active pairs by autograd in float64, dense, straight from the definitions."""
    p = {key: value.detach().double().requires_grad_() for key, value in parameters().named().items()}
    x = batch().double()
    seen = x if name == "relu_l1" else x - p["b_dec_D"]
    f = torch.relu(seen @ p["W_enc_FD"].T + p["b_enc_F"])
    norm = p["W_dec_FD"].norm(dim=1)
    rank = (f * norm).detach()
    if name == "topk":
        f = f * (rank >= rank.topk(K, dim=1).values[:, -1:])
    if name == "batch_topk":
        f = f * (rank >= rank.flatten().topk(K * N).values[-1])
    x_hat = f @ p["W_dec_FD"] + p["b_dec_D"]
    loss = ((x - x_hat) ** 2).sum(1).mean() + penalty * (f * norm).sum(1).mean()
    loss.backward()
    gradients = {key: value.grad for key, value in p.items() if value.grad is not None}
    return gradients, float(loss.detach()), int((f > 0).sum())


def check(name: str, made: Parameters, result, penalty: float, tolerance: float) -> None:
    expected, loss, n_active = textbook(name, penalty)
    assert float(result.loss) == pytest.approx(loss, rel=tolerance)
    assert float(result.l0) * N == pytest.approx(n_active, rel=tolerance)
    for key, value in made.named().items():
        assert value.grad is not None
        difference = (value.grad.double() - expected[key]).norm() / expected[key].norm()
        assert difference < tolerance, key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_equal_float64_autograd(name, monkeypatch):
    monkeypatch.setattr(relu_l1, "DENSE_ABOVE_SHARE", 1.0)  # the sparse step even for dense data
    made, penalty = parameters(), 1.7 if name == "relu_l1" else 0.0
    result = Step(made, ARCHITECTURES[name](), torch.float32)(batch(), penalty)
    check(name, made, result, penalty, 2e-6)


def test_dense_fallback_gives_the_same_gradients(monkeypatch):
    monkeypatch.setattr(relu_l1, "DENSE_ABOVE_SHARE", 0.0)
    made = parameters()
    architecture = ReluL1(5.0)
    assert architecture.select(batch() @ made.W_enc_FD.detach().T) is None
    check("relu_l1", made, Step(made, architecture, torch.float32)(batch(), 1.7), 1.7, 2e-6)


def test_bfloat16_products_give_nearly_the_same_gradients():
    made = parameters()
    result = Step(made, BatchTopK(K), torch.bfloat16)(batch(), 0.0)
    check("batch_topk", made, result, 0.0, 0.05)


def test_finite_differences_agree_with_the_penalised_loss(monkeypatch):
    """Independent of autograd: the loss that the step itself reports falls by |gradient|² h along its own gradient."""
    monkeypatch.setattr(relu_l1, "DENSE_ABOVE_SHARE", 1.0)
    made, h = parameters(), 1e-4
    step = Step(made, ReluL1(5.0), torch.float32)
    before = float(step(batch(), 1.7).loss)
    slope = sum(float(value.grad.square().sum()) for value in made.named().values() if value.grad is not None)
    for value in made.named().values():
        assert value.grad is not None
        value.data -= h / slope * value.grad
    assert (before - float(step(batch(), 1.7).loss)) / h == pytest.approx(1.0, abs=0.1)


def test_penalty_warms_up_over_the_first_twentieth_and_grows_with_centring():
    architecture = ReluL1(5.0, center_share=0.75)
    assert [architecture.penalty(step, 1000) for step in (0, 25, 50, 999)] == pytest.approx([0, 5, 10, 10])
    assert ReluL1(5.0).penalty(999, 1000) == 5.0


def test_batch_topk_keeps_exactly_k_n_whatever_it_guessed():
    z = torch.randn(64, 200, generator=torch.Generator().manual_seed(2))
    expected = set(z.flatten().topk(64 * K).indices.tolist())
    fresh, misled = BatchTopK(K), BatchTopK(K)
    misled.load_state({"last_smallest": 100.0, "average": 0.0, "weight": 0.0})
    for architecture in (fresh, misled):
        pairs = architecture.select(z)
        assert set((pairs.token_P.long() * 200 + pairs.feature_P).tolist()) == expected
        smallest = float(z.flatten().topk(64 * K).values.min())
        assert architecture.inference_threshold() == pytest.approx(smallest)


def test_batch_topk_keeps_only_what_is_positive():
    z = -torch.ones(8, 50)
    z[3, 7] = 2.0
    pairs = BatchTopK(K).select(z)
    assert (pairs.token_P.tolist(), pairs.feature_P.tolist()) == ([3], [7])


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
