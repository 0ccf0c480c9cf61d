"""The GPU path on a CPU: its Triton kernels run by Triton's interpreter. `test_gpu.py` runs this file in a process of its own,
because the interpreter must be chosen (TRITON_INTERPRET=1) before Triton is imported."""

import copy

import pytest
import torch

from sae_pipeline.sae import batch_topk, gpu, kernels, lagged, preactivations, revive
from sae_pipeline.sae.architecture import all_positive
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.entries import SparseEntries
from sae_pipeline.sae.learner import Learner
from sae_pipeline.sae.parameters import published
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.step import Step
from sae_pipeline.sae.topk import TopK
from tests.science import test_sae_gradients as reference
from tests.science.test_sae_gradients import (
    ALWAYS_DENSE,
    ARCHITECTURES,
    NEVER_DENSE,
    PENALTY,
    batch,
    check,
    parameters,
    penalty_of,
)  # fmt: skip
from tests.science.test_sae_selection import given

LAG_STEPS = 1
D, F, N, K = 8, 24, 10, 3  # smaller than there: the interpreter takes a millisecond for an operation


@pytest.fixture(autouse=True)
def _on_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(lagged, "LAG_STEPS", LAG_STEPS)
    for name, value in {"D": D, "F": F, "N": N, "K": K, "LENGTHS": [3, 6, 12, 24]}.items():
        monkeypatch.setattr(reference, name, value)


def on_cpu(monkeypatch):
    """From here on."""
    monkeypatch.setattr(gpu, "on_gpu", lambda tensor: False)


def step_of(made, name: str, dense_above_share: float) -> Step:
    step = Step(made, ARCHITECTURES[name](), torch.float32, dense_above_share)
    step.n_entries.value = 1  # as if earlier batches had had few entries
    return step


DENSE_TOO = ("relu_l1", "batch_topk", "jumprelu tanh")


@pytest.mark.parametrize(
    ("name", "dense_above_share"), [*((one, NEVER_DENSE) for one in ARCHITECTURES), *((one, ALWAYS_DENSE) for one in DENSE_TOO)]
)
def test_gradients_equal_float64_autograd(name, dense_above_share):
    made = parameters(name)
    step = step_of(made, name, dense_above_share)
    result = step(batch(), penalty_of(name))
    assert step.was_dense == (dense_above_share == ALWAYS_DENSE)
    check(name, made, result, 3e-6, getattr(step.architecture, "bandwidth", 0.0))
    squares = sum(float(value.grad.square().sum()) for value in made.named().values() if value.grad is not None)
    assert result.squares is not None and float(result.squares) == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("name", ["topk", "matryoshka"])
def test_tiles_of_tokens_give_the_same_step(name, monkeypatch):
    whole, tiled = parameters(name), parameters(name)
    dead_F = torch.arange(F) % 9 == 0
    step_of(whole, name, NEVER_DENSE)(batch(), penalty_of(name), dead_F, 8)
    monkeypatch.setattr(preactivations, "GPU_TILE_TOKENS", 7)
    monkeypatch.setattr(preactivations, "GPU_TILE_ENTRIES", 1)
    step_of(tiled, name, NEVER_DENSE)(batch(), penalty_of(name), dead_F, 8)
    for one, other in zip(whole.named().values(), tiled.named().values(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


def as_set(pairs) -> set[tuple[int, int, float]]:
    """(token, feature, value) of every place that holds a pair, after a check of the offsets."""
    for token in range(pairs.n_tokens):
        places = slice(int(pairs.offsets_N1[token]), int(pairs.offsets_N1[token + 1]))
        held = pairs.value_P[places] != 0
        assert (pairs.token_P[places][held] == token).all()
        assert (pairs.feature_P[places][held].diff() > 0).all()
    assert (pairs.value_P[int(pairs.offsets_N1[-1]) :] == 0).all()
    held = pairs.value_P != 0
    columns = (pairs.token_P[held].tolist(), pairs.feature_P[held].tolist(), pairs.value_P[held].tolist())
    return set(zip(*columns, strict=True))


def entries_where(z, keep) -> set[tuple[int, int, float]]:
    token, feature = keep.nonzero().T.tolist()
    return set(zip(token, feature, z[keep].tolist(), strict=True))


def low(z, dtype):
    """Pre-activations that are this matrix, in either dtype."""
    made = given(z.float())
    made.dtype, made._tile_RF = dtype, z.to(dtype)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("guess", [0.0, 0.1, 10.0])
def test_largest_of_rows_with_any_guess(dtype, guess, monkeypatch):
    """Guesses that set aside everything, enough, too little and nothing; rows with fewer than k positive entries, or none."""
    monkeypatch.setattr(gpu, "SET_ASIDE", 64)
    z = torch.randn(12, 200, generator=torch.Generator().manual_seed(2)).to(dtype)
    z[5] -= 1.0
    z[7] = -1.0
    z[9] = -1.0
    z[9, 17] = 0.5
    z[11] = z[11].round(decimals=0)  # many equal ones
    architecture = TopK(K)
    architecture.load_state({"guess": guess})
    pairs = architecture.select(low(z, dtype), z.numel())
    # Of equal values the first: a stable descending sort.
    order = z.float().sort(dim=1, descending=True, stable=True).indices[:, :K]
    keep = torch.zeros_like(z, dtype=torch.bool).scatter_(1, order, True) & (z > 0)
    assert as_set(pairs) == entries_where(z, keep)
    assert pairs.n_pairs == 12 * K


def test_of_equal_values_the_first_are_kept():
    z = torch.zeros(3, 90)
    z[0, 10:80] = 1.0
    z[1, 3] = 2.0
    z[1, 50:60] = 1.0
    assert as_set(TopK(4).select(given(z), z.numel())) == {
        *((0, feature, 1.0) for feature in range(10, 14)), (1, 3, 2.0), (1, 50, 1.0), (1, 51, 1.0), (1, 52, 1.0),
    }  # fmt: skip
    z[0, 20:] = 0.0
    chosen = as_set(BatchTopK(2).select(given(z), z.numel()))
    assert chosen == {(1, 3, 2.0), *((0, feature, 1.0) for feature in range(10, 15))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_topk_keeps_the_largest_of_the_batch(dtype):
    z = torch.randn(24, 200, generator=torch.Generator().manual_seed(2)).to(dtype)
    architecture = BatchTopK(K)
    pairs = architecture.select(low(z, dtype), z.numel())
    order = z.flatten().float().sort(descending=True, stable=True).indices[: 24 * K]
    keep = torch.zeros(z.numel(), dtype=torch.bool).scatter_(0, order, True).view_as(z)
    assert as_set(pairs) == entries_where(z, keep) and not pairs.is_short
    assert architecture.threshold == pytest.approx(float(z[keep].min()), rel=1e-6)
    assert architecture.state()["last_smallest"] == float(z[keep].min())


def test_batch_topk_with_few_positive_entries_and_with_a_useless_guess(monkeypatch):
    monkeypatch.setattr(batch_topk, "SAMPLED_TOKENS", 8)
    z = -torch.ones(8, 50)
    z[3, 7] = 2.0
    pairs = BatchTopK(K).select(given(z), z.numel())
    assert as_set(pairs) == {(3, 7, 2.0)} and not pairs.is_short
    z = torch.full((12, 40), 0.1)
    z[:8, :2] = 9.0  # what is sampled says nothing about the rest, where the last third of what is to be kept lies
    architecture = BatchTopK(2)
    assert architecture.select(given(z), z.numel()).is_short
    assert architecture.threshold == 0.0


def test_positive_pairs_say_when_they_are_short():
    z = torch.randn(20, 70, generator=torch.Generator().manual_seed(3))
    assert all_positive(given(z), 0) is None
    n = int((z > 0).sum())
    whole, short = all_positive(given(z), n), all_positive(given(z), n - 1)
    assert whole is not None and short is not None
    assert as_set(whole) == entries_where(z, z > 0) and not whole.is_short
    assert short.is_short and as_set(short) < as_set(whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [24, 300])
def test_sums_equal_those_of_dense_products(dtype, width):
    """Widths of less and of more than a block of columns; features without any pair and with more than a block of pairs."""
    draw = torch.Generator().manual_seed(4)
    z = torch.randn(40, 12, generator=draw)
    z[:, 5] = -1.0
    z[:, 6] = 1.0
    pairs = all_positive(given(z), z.numel())
    assert pairs is not None
    pairs = kernels.Pairs(pairs.offsets_N1, pairs.token_P, pairs.feature_P, pairs.value_P.to(dtype))
    V, g = torch.randn(12, width, generator=draw).to(dtype), torch.randn(40, width, generator=draw).to(dtype)
    entries, u = SparseEntries(pairs, V), z.relu().to(dtype).double()
    torch.testing.assert_close(entries.decode(pairs.value_P).double(), u @ V.double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(entries.rows(pairs.value_P, g).double(), u.T @ g.double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(entries.total(pairs.value_P).double(), u.sum(0), rtol=1e-5, atol=1e-4)
    for active_P in (None, pairs.value_P > 0):
        assert torch.equal(entries.count(active_P).long(), (z > 0).sum(0))
    expected = ((g.double() @ V.double().T) * (z > 0))[z > 0]
    measured = entries.products(g)
    torch.testing.assert_close(measured[: len(expected)].double(), expected, rtol=1e-5, atol=1e-4)
    assert (measured[len(expected) :] == 0).all()


def test_published_copies_are_those_of_the_cpu(monkeypatch):
    made, shift_F = parameters(), torch.linspace(0, 1, F)
    with torch.no_grad():
        ours = [published(made, torch.bfloat16, subtracts, shift_F=shift_F) for subtracts in (False, True)]
        on_cpu(monkeypatch)
        theirs = [published(made, torch.bfloat16, subtracts, shift_F=shift_F) for subtracts in (False, True)]
    for one, other in zip(ours, theirs, strict=True):
        for name, value in vars(other).items():
            torch.testing.assert_close(getattr(one, name), value)


@pytest.mark.parametrize("k_aux", [2, 256])
def test_dead_features_are_revived_as_on_the_cpu(k_aux, monkeypatch):
    """With room for more than are dead, and for too few: then the first ones."""
    monkeypatch.setattr(revive, "K_AUX", k_aux)
    dead = [1, 5, 9, 14, 20]
    dead_F, four_F = (torch.isin(torch.arange(F), torch.tensor(some)) for some in (dead, dead[:4]))
    made = {n_dead: parameters() for n_dead in (5, 4, 0)}
    for n_dead, one in made.items():
        step_of(one, "relu_l1", NEVER_DENSE)(batch(), PENALTY, dead_F, n_dead)
    on_cpu(monkeypatch)
    for n_dead, mask_F in ((5, dead_F), (4, four_F), (0, None)):
        expected = parameters()
        Step(expected, ReluL1(5.0), torch.float32)(batch(), PENALTY, mask_F)
        for one, other in zip(made[n_dead].named().values(), expected.named().values(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


def trained(name: str, n_steps: int, dense_above_share: float) -> tuple[Learner, list[float]]:
    """A learner after steps on batches of their own, and its losses."""
    made = Learner(D, F, ARCHITECTURES[name](), torch.float32, seed=3)
    made.step.dense_above_share = dense_above_share
    losses = []
    for i in range(n_steps):
        x_ND = torch.randn(N, D, generator=torch.Generator().manual_seed(i))
        if i == 0:
            made.prepare(x_ND)
        losses.append(float(made.learn(x_ND, penalty_of(name), 1e-3)[0].loss))
    return made, losses


@pytest.mark.parametrize("name", ["batch_topk", "relu_l1"])
def test_training_is_that_of_the_cpu(name, monkeypatch):
    """Where the number of entries is not fixed, the first steps are dense and the others sparse."""
    ours, losses = trained(name, LAG_STEPS + 2, 0.9)
    assert not ours.step.was_dense and not ours.n_skipped
    on_cpu(monkeypatch)
    theirs, expected = trained(name, LAG_STEPS + 2, 0.9)
    assert losses == pytest.approx(expected, rel=1e-4)
    start = Learner(D, F, ARCHITECTURES[name](), torch.float32, seed=3).parameters.named()
    for key, value in theirs.parameters.named().items():
        # Adam turns rounding errors of gradients near 0 into steps: the distance is small beside the way.
        assert (ours.parameters.named()[key] - value).norm() < 0.02 * (value - start[key]).norm(), key
    assert torch.equal(ours.tokens_since_active_F, theirs.tokens_since_active_F)


def test_a_batch_whose_entries_find_no_place_changes_nothing(monkeypatch):
    made, _ = trained("relu_l1", LAG_STEPS + 2, 0.6)
    assert not made.step.was_dense
    made.step.dense_above_share = 0.1
    made.step.n_entries.value = 1
    before = {key: value.clone() for key, value in made.tensors().items()}
    x_ND = torch.randn(N, D, generator=torch.Generator().manual_seed(99))
    result, _, _ = made.learn(x_ND, 1.0, 1e-2)
    assert result.is_short and int(made.n_skipped) == 1
    for key in before:
        if key in made.parameters.named() or key.endswith(("exp_avg", "exp_avg_sq", "step", "tokens_since_active_F")):
            assert torch.equal(before[key], made.tensors()[key]), key
    for seed in range(LAG_STEPS):  # until the host has learnt of it
        made.learn(torch.randn(N, D, generator=torch.Generator().manual_seed(seed)), 1.0, 1e-2)
    made.learn(x_ND, 1.0, 1e-2)
    assert made.step.was_dense and not torch.equal(before["W_enc_FD"], made.parameters.W_enc_FD)


def test_resumed_training_takes_the_same_decisions():
    name = "relu_l1"
    made, _ = trained(name, LAG_STEPS + 1, 0.9)
    again = Learner(D, F, ARCHITECTURES[name](), torch.float32, seed=4)
    again.step.dense_above_share = 0.9
    again.load(copy.deepcopy(made.tensors()))
    again.architecture.load_state(made.architecture.state())
    for seed in range(2):
        x_ND = torch.randn(N, D, generator=torch.Generator().manual_seed(50 + seed))
        one, other = (each.learn(x_ND, penalty_of(name), 1e-2)[0] for each in (made, again))
        assert torch.equal(one.loss, other.loss) and made.step.was_dense == again.step.was_dense
    for key, value in made.tensors().items():
        assert torch.equal(value, again.tensors()[key]), key


def test_clipping_looks_at_what_is_learned(monkeypatch):
    """A frozen decoder's gradient is no part of the norm."""
    norms = []
    for _ in range(2):
        made = Learner(D, F, ReluL1(5.0), torch.float32, seed=3, frozen=frozenset({"W_dec_FD"}))
        before = made.parameters.W_dec_FD.clone()
        norms.append(float(made.learn(batch(), PENALTY, 1e-3)[1]))
        assert torch.equal(before, made.parameters.W_dec_FD)
        on_cpu(monkeypatch)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
