"""Our trainer as the `sae` stage runs it: its steps, its schedules, its published form."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.quality.runs import BATCH, DECAY_SHARE, LEARNING_RATE, N_FEATURES, N_STEPS, WARMUP_SHARE, Run
from sae_pipeline.language_model.precision import choose_dtype
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.build import make_architecture
from sae_pipeline.sae.learner import Learner
from sae_pipeline.sae.trainer import TrainingPlan
from sae_pipeline.study import Sae

FIELDS = {
    "relu_l1": "l1", "gated": "l1", "jumprelu": "sparsity", "jumprelu_step": "sparsity",
    "jumprelu_early": "sparsity", "topk": "k", "batch_topk": "k",
    "matryoshka": "k",
}  # fmt: skip


class Ours:
    """One SAE of ours."""

    def __init__(self, run: Run, d_model: int) -> None:
        name, architecture = FIELDS[run.architecture], run.architecture.removesuffix("_early").removesuffix("_step")
        value: dict[str, Any] = {name: int(run.sparsity) if name == "k" else run.sparsity}
        value |= {"sparsity_loss": "step"} if run.architecture == "jumprelu_step" else {}
        value |= {"sparsity_warmup": WARMUP_SHARE} if run.architecture == "jumprelu_early" else {}
        section = Sae(architecture=architecture, sizes=[N_FEATURES], **value)  # pyright: ignore[reportArgumentType]
        self._architecture = make_architecture(section, N_FEATURES, d_model, center_share=0.0)
        self._plan = TrainingPlan(N_FEATURES, N_STEPS, BATCH, LEARNING_RATE, DECAY_SHARE, N_STEPS, run.seed)
        dtype = choose_dtype(torch.device("cpu"), "auto")[0]
        self._learner = Learner(d_model, N_FEATURES, self._architecture, dtype, run.seed)
        self._config = {"architecture": architecture, "n_features": N_FEATURES, "d_model": d_model, "scale": 1.0, **value}
        self._config |= {"product_dtype": str(dtype).removeprefix("torch.")}

    def step(self, index: int, x_ND: Tensor) -> None:
        """See `Trainee`."""
        if index == 0:
            self._learner.prepare(x_ND)
        self._learner.learn(x_ND, self._architecture.penalty(index, N_STEPS), self._plan.learning_rate_at(index))

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """See `Trainee`."""
        parameters, threshold = self._architecture.inference(self._learner.parameters)
        mean_D = torch.zeros(parameters.d_model)
        subtracts = self._architecture.subtracts_decoder_bias
        SparseAutoencoder.from_parameters(parameters, subtracts, threshold, mean_D, self._config).save(folder)


def make(run: Run, d_model: int) -> Ours:
    """An SAE of ours at its start."""
    return Ours(run, d_model)
