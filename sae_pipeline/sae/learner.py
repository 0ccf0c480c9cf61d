"""One SAE learning: parameters, exact step, gradient clipping, Adam, and the counters by which features count as dead.

Needs PyTorch and NumPy alone: what it is given to learn, and what becomes of it, is the trainer's business.

Shapes: N tokens of a batch, F features, D width.
"""

import torch
from torch import Tensor

from sae_pipeline.errors import UserError
from sae_pipeline.sae import gpu
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.lagged import Lagged
from sae_pipeline.sae.parameters import Parameters, initial_parameters
from sae_pipeline.sae.step import Step, StepResult

CLIP_NORM = 1.0
# A feature counts as dead while training when it was silent for this many tokens.
DEAD_AFTER_TOKENS = 100_000
# So many batches in a row left out on a GPU end a training: one that goes on would publish weights that nothing changes any more.
MOST_SKIPPED_IN_A_ROW = 20


class Learner:
    """`dtype` is that of the large products; masters and optimizer are float32. Parameters named in `frozen` stay as drawn."""

    def __init__(
        self, d_model: int, n_features: int, architecture: Architecture, dtype: torch.dtype, seed: int = 0, device: str = "cpu",
        frozen: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.architecture, self.device = architecture, device
        self.parameters: Parameters = initial_parameters(
            n_features, d_model, architecture.initial_decoder_norm, torch.Generator().manual_seed(seed), device,
            architecture.own_parameters(n_features),
        )  # fmt: skip
        self._learned = {name: value for name, value in self.parameters.named().items() if name not in frozen}
        per_feature = {"b_enc_F", *self.parameters.own}
        groups = [
            {"params": [value for name, value in self._learned.items() if (name in per_feature) == own], "rate": rate}
            for own, rate in ((False, 1.0), (True, architecture.feature_rate))
        ]
        self.optimizer = torch.optim.Adam(groups, betas=architecture.betas, fused=True)
        self.tokens_since_active_F = torch.zeros(n_features, dtype=torch.int64, device=device)
        self.step = Step(self.parameters, architecture, dtype)
        self.on_gpu = gpu.on_gpu(self.tokens_since_active_F)
        self._n_dead = Lagged()
        self.n_skipped = torch.zeros((), dtype=torch.int64, device=device)
        """Batches that were left out on a GPU because their entries found no place (`StepResult.is_short`)."""
        self._in_a_row = torch.zeros_like(self.n_skipped)
        self._skipped_in_a_row = Lagged()

    def prepare(self, x_ND: Tensor) -> None:
        """Before the first batch."""
        with torch.no_grad():
            self.architecture.prepare(self.parameters, x_ND)

    def learn(self, x_ND: Tensor, penalty: float, learning_rate: float) -> tuple[StepResult, Tensor, Tensor]:
        """One step: (statistics, gradient norm before clipping, which features were dead).

        Raises `UserError` when, on a GPU, no batch can be taken any more.
        """
        dead_F = self.tokens_since_active_F >= DEAD_AFTER_TOKENS
        n_dead = None
        if self.on_gpu:
            self._n_dead.add(dead_F.sum())
            n_dead = self._n_dead.value or 0
        result = self.step(x_ND, penalty, dead_F if self.architecture.revives_dead_features else None, n_dead)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        if self.on_gpu:
            grad_norm = self._update_on_gpu(result)
        else:
            grad_norm = torch.nn.utils.clip_grad_norm_(self._learned.values(), CLIP_NORM)
            self.optimizer.step()
        seen = len(x_ND) if result.is_short is None else len(x_ND) * ~result.is_short
        is_active_F = result.count_F > 0
        self.tokens_since_active_F += seen
        self.tokens_since_active_F.masked_fill_(is_active_F if result.is_short is None else is_active_F & ~result.is_short, 0)
        return result, grad_norm, dead_F

    def _update_on_gpu(self, result: StepResult) -> Tensor:
        """Clipping and Adam in one pass over memory: the fused kernel divides gradients by `grad_scale` on its way, and does
        nothing at all where `found_inf` is not 0."""
        assert result.squares is not None
        grad_norm = result.squares.sqrt()
        if len(self._learned) < len(self.parameters.named()):
            gradients = [parameter.grad for parameter in self._learned.values() if parameter.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(gradients)
        scale, skip = ((grad_norm + 1e-6) / CLIP_NORM).clamp(min=1.0), torch.zeros_like(grad_norm)
        if result.is_short is not None:
            skip += result.is_short
            self._count_skipped(result.is_short)
        # The two attributes through which `torch.amp.GradScaler` speaks to a fused optimizer.
        self.optimizer.grad_scale, self.optimizer.found_inf = scale, skip  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        return grad_norm

    def _count_skipped(self, is_short: Tensor) -> None:
        self.n_skipped += is_short
        self._in_a_row.add_(1).mul_(is_short)
        self._skipped_in_a_row.add(self._in_a_row)
        if (self._skipped_in_a_row.value or 0) >= MOST_SKIPPED_IN_A_ROW:
            raise UserError(
                f"sae/{self.parameters.n_features}",
                f"{MOST_SKIPPED_IN_A_ROW} batches in a row had more active entries than the GPU's arrays have places",
                "Train this size on the CPU (compute.device: cpu), or with a larger k.",
            )  # fmt: skip

    # --- state

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a restart needs but the architecture's own state."""
        tensors = {"tokens_since_active_F": self.tokens_since_active_F}
        if self.on_gpu:
            tensors |= {f"lagged.{name}": lagged.state() for name, lagged in self._lagged.items()}
            tensors |= {"n_skipped": self.n_skipped, "n_skipped_in_a_row": self._in_a_row}
        for name, parameter in self.parameters.named().items():
            tensors[name] = parameter.detach()
        for name, parameter in self._learned.items():
            tensors |= {f"{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        return tensors

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        for name, parameter in self.parameters.named().items():
            parameter.copy_(tensors[name])
        for name, parameter in self._learned.items():
            self.optimizer.state[parameter] = {
                # Copies of our own: a file's buffer is aligned otherwise, and then sums may round otherwise.
                key: tensors[f"{name}.{key}"].to(self.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
        self.tokens_since_active_F.copy_(tensors["tokens_since_active_F"])
        if self.on_gpu and "lagged.n_dead" in tensors:  # a checkpoint that a CPU wrote has none
            for name, lagged in self._lagged.items():
                lagged.load_state(tensors[f"lagged.{name}"])
            self.n_skipped.copy_(tensors["n_skipped"])
            self._in_a_row.copy_(tensors["n_skipped_in_a_row"])

    @property
    def _lagged(self) -> dict[str, Lagged]:
        return {"n_dead": self._n_dead, "n_entries": self.step.n_entries, "n_skipped": self._skipped_in_a_row}
