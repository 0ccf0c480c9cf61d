"""One SAE learning: parameters, exact step, gradient clipping, Adam, and the counters by which features count as dead.

Needs PyTorch and NumPy alone: what it is given to learn, and what becomes of it, is the trainer's business.

Shapes: N tokens of a batch, F features, D width.
"""

import torch
from torch import Tensor

from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.parameters import Parameters, initial_parameters
from sae_pipeline.sae.step import Step, StepResult

CLIP_NORM = 1.0
# A feature counts as dead while training when it was silent for this many tokens.
DEAD_AFTER_TOKENS = 100_000


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
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999), fused=True)
        self.tokens_since_active_F = torch.zeros(n_features, dtype=torch.int64, device=device)
        self.step = Step(self.parameters, architecture, dtype)

    def prepare(self, x_ND: Tensor) -> None:
        """Before the first batch."""
        with torch.no_grad():
            self.architecture.prepare(self.parameters, x_ND)

    def learn(self, x_ND: Tensor, penalty: float, learning_rate: float) -> tuple[StepResult, Tensor, Tensor]:
        """One step: (statistics, gradient norm before clipping, which features were dead)."""
        dead_F = self.tokens_since_active_F >= DEAD_AFTER_TOKENS
        result = self.step(x_ND, penalty, dead_F if self.architecture.revives_dead_features else None)
        grad_norm = torch.nn.utils.clip_grad_norm_(self._learned.values(), CLIP_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        self.optimizer.step()
        self.tokens_since_active_F += len(x_ND)
        self.tokens_since_active_F.masked_fill_(result.count_F > 0, 0)
        return result, grad_norm, dead_F

    # --- state

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a restart needs but the architecture's own state."""
        tensors = {"tokens_since_active_F": self.tokens_since_active_F}
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
