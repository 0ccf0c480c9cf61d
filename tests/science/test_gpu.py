"""What can be known of the GPU path without a GPU: what kernels compute, that they compile, that no step waits for the device.

`test_on_a_gpu.py` has what needs one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sae_pipeline.errors import UserError
from sae_pipeline.sae import gpu
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.kernels import Pairs
from sae_pipeline.sae.lagged import LAG_STEPS, Lagged
from sae_pipeline.sae.learner import MOST_SKIPPED_IN_A_ROW, Learner
from sae_pipeline.sae.trainer import Trainer, TrainingPlan
from tests.science.test_sae_gradients import ARCHITECTURES, D, F, N

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}


def test_kernels_interpreted_on_the_cpu():
    """interpreted_gpu.py, in a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/science/interpreted_gpu.py"]
    made = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-3000:]


class Known:
    """In place of `Lagged`: a count that is known already. The real one only queues copies (see `lagged`)."""

    def __init__(self, value: int) -> None:
        self.value = value

    def add(self, count: torch.Tensor) -> None:
        assert count.ndim == 0 and not count.is_floating_point()


@pytest.fixture
def on_meta(monkeypatch):
    """The GPU path on tensors without data: whatever needs to see a value fails. The list has the kernels that were launched."""
    launched = []
    monkeypatch.setattr(gpu, "on_gpu", lambda tensor: tensor.device.type == "meta")
    monkeypatch.setattr(gpu, "launch", lambda *arguments, **constants: launched.append((arguments, constants)))
    return launched


def on_device(learner: Learner, share: float) -> None:
    """Of the sparse (1) or the dense (0) form. PyTorch's fused Adam has no form for tensors without data; it is left out."""
    learner.step.dense_above_share = share
    learner.step.n_entries = Known(1)  # pyright: ignore[reportAttributeAccessIssue]
    learner._n_dead = Known(5)  # pyright: ignore[reportAttributeAccessIssue]
    learner._skipped_in_a_row = Known(0)  # pyright: ignore[reportAttributeAccessIssue]
    learner.optimizer.step = lambda: None  # pyright: ignore[reportAttributeAccessIssue]


class NoSynchronisation(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU."""

    WAITS = (
        "_local_scalar_dense", "item", "nonzero", "masked_select", "bincount", "unique", "_unique2", "equal", "is_nonzero",
        "repeat_interleave", "segment_reduce", "_embedding_bag", "_embedding_bag_per_sample_weights_backward",
    )  # fmt: skip

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, func
        masks = [one for one in args[1] if one is not None and one.dtype == torch.bool] if name in ("index", "index_put_") else []
        assert not masks, f"{func} with a mask"
        made = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            assert source.device == made.device, f"{func} from {source.device} to {made.device}"
        return made


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x.cpu(),
        lambda x: torch.zeros(3).to(x.device), lambda x: x.long().bincount(),
    ],
)  # fmt: skip
def test_the_refusal_refuses(waits):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), NoSynchronisation():
        waits(torch.zeros(4, device="meta"))


@pytest.mark.parametrize("share", [1.0, 0.0])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_step_waits_for_the_device(name, share, on_meta, tmp_path):
    """Whole steps of the trainer: gradients, clipping, dead features, history."""
    plan = TrainingPlan(F, n_steps=1000, batch=N, learning_rate=1e-3, decay_share=0.2, checkpoint_every_steps=500, seed=0)
    trainer = Trainer(D, ARCHITECTURES[name](), plan, {}, tmp_path, torch.bfloat16, device="meta")
    on_device(trainer.learner, share)
    x_ND = torch.empty(N, D, device="meta")
    with NoSynchronisation():
        for _ in range(3):
            trainer.train_on(x_ND, None)  # pyright: ignore[reportArgumentType]
    assert trainer.steps_done == 3
    assert trainer.learner.step.was_dense == (share == 0)
    kernels = {arguments[1] for arguments, _ in on_meta}
    assert {"publish", "chain"} <= kernels and ("sum_rows" in kernels) == (share == 1)
    assert trainer.learner.n_skipped.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kernel_compiles_for_a_gpu(dtype, on_meta, tmp_path, monkeypatch):
    """With the types and constants of real steps, down to machine code of compute capability 9.0 (Hopper)."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from importlib import import_module

    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    for name in ("relu_l1 without b_dec", "topk"):
        made = Learner(768, 4096, ARCHITECTURES[name](), dtype, device="meta")
        on_device(made, 1.0)
        made.learn(torch.empty(N, 768, device="meta"), 1.0, 1e-3)
    compiled = {}
    for (file, kernel, _, *arguments), constants in on_meta:
        function = getattr(import_module(f"sae_pipeline.sae.{file}"), kernel)
        types = [DTYPES[one.dtype] if isinstance(one, torch.Tensor) else "i32" for one in arguments]
        signature = dict(zip(function.arg_names, [*types, *["constexpr"] * len(constants)], strict=True))
        key = (kernel, *signature.values(), *constants.values())
        if key not in compiled:
            source = ASTSource(fn=function, signature=signature, constexprs=constants)
            compiled[key] = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
    assert {key[0] for key in compiled} == {
        "publish", "chain", "sum_rows", "pair_products", "sum_segments", "count_above", "write_above", "largest_of_rows",
    }  # fmt: skip
    assert all(code[:4] == b"\x7fELF" for code in compiled.values())


def test_without_triton_the_mistake_is_named(monkeypatch):
    def absent(name: str):
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setattr(gpu, "import_module", absent)
    with pytest.raises(gpu.UserError, match="training on a GPU needs Triton"):
        gpu.launch("triton_sums", "sum_rows", (1,), torch.zeros(1))


def test_a_lagged_count_comes_a_fixed_number_of_steps_later():
    made, seen = Lagged(), []
    for count in range(10):
        made.add(torch.tensor(count))
        seen.append(made.value)
    assert seen == [None] * LAG_STEPS + list(range(10 - LAG_STEPS))
    again = Lagged()
    again.load_state(made.state())
    for count in range(10, 20):
        made.add(torch.tensor(count))
        again.add(torch.tensor(count))
        assert made.value == again.value == count - LAG_STEPS
    empty = Lagged()
    empty.load_state(Lagged().state())
    assert empty.value is None


class OnGpu:
    """Pre-activations as a GPU's selection sees them."""

    on_gpu, dtype = True, torch.float32

    def __init__(self, z_NF: torch.Tensor) -> None:
        self.z_NF, (self.n_tokens, self.n_features) = z_NF, z_NF.shape

    def first_rows(self, n_tokens: int) -> torch.Tensor:
        return self.z_NF[:n_tokens]


def above(z: OnGpu, threshold: torch.Tensor, n_places: int) -> Pairs:
    """`gpu.pairs_above` without its kernels, which the interpreter runs at small sizes only."""
    token_P, feature_P = (z.z_NF > threshold).nonzero().int().T
    missing = max(0, n_places - len(token_P))
    token_P, feature_P = (torch.nn.functional.pad(one[:n_places], (0, missing)) for one in (token_P, feature_P))
    offsets_N1 = torch.nn.functional.pad((z.z_NF > threshold).sum(1).cumsum(0), (1, 0))
    value_P = z.z_NF[token_P.long(), feature_P.long()]
    value_P[n_places - missing :] = 0
    return Pairs(offsets_N1.clamp(max=n_places).int(), token_P, feature_P, value_P, is_short=offsets_N1[-1] > n_places)


@pytest.mark.parametrize(("n_features", "k"), [(65_536, 1), (4096, 64), (96, 80)])
def test_batch_topk_finds_places_in_dictionaries_of_any_size(n_features, k, monkeypatch):
    """The larger F / k, the more values lie just below the smallest that is kept."""
    monkeypatch.setattr(gpu, "pairs_above", above)
    z_NF = torch.randn(320, n_features, generator=torch.Generator().manual_seed(0))
    made = BatchTopK(k)
    chosen = made.select(OnGpu(z_NF), 0)  # pyright: ignore[reportArgumentType]
    largest = z_NF.flatten().topk(k * 320).values.clamp(min=0)
    assert not chosen.is_short
    assert torch.equal(chosen.value_P.sort(descending=True).values, largest)
    assert made.threshold == pytest.approx(float(largest[largest > 0].min()))


def test_a_training_that_only_skips_ends_with_a_sentence():
    made, skipped, taken = Learner(D, F, BatchTopK(3), torch.float32), torch.tensor(True), torch.tensor(False)
    for is_short in [*[skipped] * (MOST_SKIPPED_IN_A_ROW - 1), taken] * 3:
        made._count_skipped(is_short)
    with pytest.raises(UserError, match=f"{MOST_SKIPPED_IN_A_ROW} batches in a row had more active entries than"):
        for _ in range(MOST_SKIPPED_IN_A_ROW + LAG_STEPS):
            made._count_skipped(skipped)
    assert int(made.n_skipped) == 4 * MOST_SKIPPED_IN_A_ROW - 3 + LAG_STEPS


def test_on_a_cpu_nothing_of_it_is_used(monkeypatch):
    monkeypatch.setattr(gpu, "launch", lambda *_, **__: pytest.fail("a kernel was launched"))
    learner = Learner(D, F, ARCHITECTURES["batch_topk"](), torch.bfloat16)
    learner.learn(torch.randn(N, D, generator=torch.Generator().manual_seed(0)), 0.0, 1e-3)
    assert not any(name.startswith("lagged.") for name in learner.tensors())
    assert all(type(value) is float for value in learner.architecture.state().values())
