"""Many small SAEs from one pass over the activations: the arms of the survey's experiments.

They differ in size, number of steps, learning rate, sparsity, seed, or in a decoder that stays as it was drawn. Every arm sees
the first steps of one and the same stream, so that arms differ in nothing else.

Shapes: N tokens, F features, D width.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sae_pipeline import progress
from sae_pipeline.language_model.precision import choose_dtype
from sae_pipeline.sae.autoencoder import CONFIG, SparseAutoencoder
from sae_pipeline.sae.build import DECAY_SHARE, make_architecture
from sae_pipeline.sae.learner import Learner
from sae_pipeline.sae.names import SPARSITY_FIELDS, Architecture
from sae_pipeline.sae.trainer import TrainingPlan
from sae_pipeline.study_sae import Sae

CALIBRATION_TOKENS = 4096
CALIBRATION_ENTRIES = 2**24  # pre-activations in memory at once for it
BATCHWISE = ("batch_topk", "matryoshka")


@dataclass(frozen=True)
class Arm:
    """One SAE to train. `sparsity`: k of the top-k family, lambda of the others. `name` is unique within an experiment."""

    name: str
    architecture: Architecture
    n_features: int
    n_steps: int
    learning_rate: float
    sparsity: float
    seed: int = 0
    frozen_decoder: bool = False

    @property
    def section(self) -> Sae:
        """The arm as a study's section says it."""
        field = SPARSITY_FIELDS[self.architecture][0]
        value = int(self.sparsity) if field == "k" else self.sparsity
        return Sae.model_validate({"architecture": self.architecture, "sizes": [self.n_features], field: value})


class Batches(Protocol):
    """Where batches come from, and how raw activations become x."""

    d_model: int

    def next(self) -> Tensor:
        """x_ND = scale (r - mean), float32."""
        ...


def train_arms(
    arms: Sequence[Arm], batches: Callable[[], Batches], batch: int, mean_D: Tensor, scale: float, folder: Path,
    device: str = "cpu",
) -> dict[str, SparseAutoencoder]:  # fmt: skip
    """Every arm as a published SAE, by name. Finished ones are kept in `folder` and not trained again after a kill.

    lambda is that of the activations as they are given (no correction for centring). A threshold that batches agreed on while
    training lags behind in short runs, so it is set anew: k features per token on the last training tokens.
    """
    missing = [arm for arm in arms if not (folder / arm.name / CONFIG).is_file()]
    if missing:
        for arm, sae in _trained(missing, batches(), batch, mean_D, scale, device):
            scratch = folder / f"{arm.name}.part"
            sae.save(scratch)
            scratch.rename(folder / arm.name)
    return {arm.name: SparseAutoencoder.load(folder / arm.name, device) for arm in arms}


def _trained(
    arms: Sequence[Arm], stream: Batches, batch: int, mean_D: Tensor, scale: float, device: str
) -> Iterator[tuple[Arm, SparseAutoencoder]]:
    dtype = choose_dtype(torch.device(device), "auto")[0]
    learners = {arm.name: _learner(arm, stream.d_model, dtype, device) for arm in arms}
    active, last = list(arms), deque(maxlen=max(1, CALIBRATION_TOKENS // batch))
    with progress.bar("small SAEs", batch * sum(arm.n_steps for arm in arms), "tokens") as bar:
        for step in range(max(arm.n_steps for arm in arms)):
            x_ND = stream.next().to(device)
            last.append(x_ND)
            for arm in active:
                learner, plan = learners[arm.name], _plan(arm, batch)
                if step == 0:
                    learner.prepare(x_ND)
                learner.learn(x_ND, learner.architecture.penalty(step, arm.n_steps), plan.learning_rate_at(step))
            bar.update(batch * len(active))
            for arm in [arm for arm in active if arm.n_steps == step + 1]:
                yield arm, _published(arm, learners.pop(arm.name), torch.cat(list(last)), mean_D, scale, batch)
            active = [arm for arm in active if arm.n_steps > step + 1]


def _learner(arm: Arm, d_model: int, dtype: torch.dtype, device: str) -> Learner:
    architecture = make_architecture(arm.section, arm.n_features, d_model, 0.0)
    frozen = frozenset({"W_dec_FD"}) if arm.frozen_decoder else frozenset()
    return Learner(d_model, arm.n_features, architecture, dtype, 2 * arm.seed, device, frozen)


def _plan(arm: Arm, batch: int) -> TrainingPlan:
    return TrainingPlan(arm.n_features, arm.n_steps, batch, arm.learning_rate, DECAY_SHARE, arm.n_steps, arm.seed)


def _published(arm: Arm, learner: Learner, x_ND: Tensor, mean_D: Tensor, scale: float, batch: int) -> SparseAutoencoder:
    architecture = learner.architecture
    with torch.no_grad():
        parameters, threshold = architecture.inference(learner.parameters)
    config: dict[str, Any] = asdict(arm) | arm.section.sparsity_settings | {
        "d_model": x_ND.shape[1], "scale": scale, "batch": batch, "n_tokens_trained": arm.n_steps * batch,
        "decay_share": DECAY_SHARE,
    }  # fmt: skip
    sae = SparseAutoencoder.from_parameters(parameters, architecture.subtracts_decoder_bias, threshold, mean_D, config)
    if arm.architecture in BATCHWISE:
        sae.threshold_F = torch.full_like(sae.threshold_F, threshold_for(sae, x_ND.cpu(), int(arm.sparsity)))
    return sae


def threshold_for(sae: SparseAutoencoder, x_ND: Tensor, k: int) -> float:
    """The threshold above which k features per token are active on average, on (as many as fit of) these scaled activations."""
    x_ND = x_ND[: max(1, CALIBRATION_ENTRIES // sae.n_features)]
    z_NF = torch.addmm(sae.b_enc_F, x_ND, sae.W_enc_FD.T)
    n = min(k * len(x_ND), z_NF.numel() - 1)
    return max(0.0, float(z_NF.flatten().kthvalue(z_NF.numel() - n).values))
