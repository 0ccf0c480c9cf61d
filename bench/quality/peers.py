"""The peers' trainers with their own initialisation, losses and defaults, but for what is equal for all (budget, learning rate).

Defaults that count steps or tokens are made for runs of tens of thousands of steps: warm-ups become the same share of the steps
as ours, running thresholds get our memory of a hundred steps, and a feature counts as dead, for every auxiliary loss, after as
many silent tokens as with us (the libraries' windows, 1,000 steps and 10 million tokens, are longer than the budget). Each
library saves its own inference form.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.quality.runs import (
    BATCH,
    DEAD_AFTER_TOKENS,
    DECAY_SHARE,
    LEARNING_RATE,
    N_FEATURES,
    N_STEPS,
    SAELENS,
    WARMUP_SHARE,
    Run,
)  # fmt: skip
from sae_pipeline.sae.matryoshka import prefix_lengths

PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
WARMUP_STEPS, DECAY_START = round(WARMUP_SHARE * N_STEPS), round((1 - DECAY_SHARE) * N_STEPS)


class SaeLens:
    """SAELens `SAETrainer`. Its `jumprelu` in the form of ours: a tanh penalty that rises over the whole training (`_early`: over
    its first steps). Its `jumprelu_step` is given the same threshold, bandwidth and straight-through gradients into the encoder:
    by its defaults the thresholds alone bear the penalty, which move less in this budget (the sum of learning rates is .23) than
    activations grow (bench/RESULTS.md: what was tried)."""

    def __init__(self, run: Run, d_model: int) -> None:
        import sae_lens
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        l1 = {"l1_coefficient": run.sparsity, "l1_warm_up_steps": WARMUP_STEPS}
        jumprelu = {
            "l0_coefficient": run.sparsity, "jumprelu_init_threshold": 0.1, "jumprelu_bandwidth": 2.0,
            "pre_act_loss_coefficient": 3e-6, "jumprelu_ste_to_input": True,
        }  # fmt: skip
        name, own = {
            "relu_l1": ("Standard", l1),
            "gated": ("Gated", l1),
            "topk": ("TopK", {"k": int(run.sparsity)}),
            "batch_topk": ("BatchTopK", {"k": run.sparsity}),
            "matryoshka": ("MatryoshkaBatchTopK", {"k": run.sparsity, "matryoshka_widths": prefix_lengths(N_FEATURES, PREFIXES)}),
            "jumprelu": ("JumpReLU", jumprelu | {"jumprelu_sparsity_loss_mode": "tanh", "l0_warm_up_steps": N_STEPS}),
            "jumprelu_early": ("JumpReLU", jumprelu | {"jumprelu_sparsity_loss_mode": "tanh", "l0_warm_up_steps": WARMUP_STEPS}),
            "jumprelu_step": ("JumpReLU", jumprelu | {"jumprelu_sparsity_loss_mode": "step", "l0_warm_up_steps": WARMUP_STEPS}),
        }[run.architecture]
        torch.manual_seed(run.seed)
        config = getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=d_model, d_sae=N_FEATURES, **own)
        self._sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
        trainer = SAETrainerConfig(
            total_training_samples=N_STEPS * BATCH, train_batch_size_samples=BATCH, lr=LEARNING_RATE, lr_end=0.0,
            lr_decay_steps=N_STEPS - DECAY_START, dead_feature_window=DEAD_AFTER_TOKENS // BATCH,
            logger=LoggingConfig(log_to_wandb=False),
        )  # fmt: skip
        self._trainer = SAETrainer(cfg=trainer, sae=self._sae, data_provider=iter(()))

    def step(self, index: int, x_ND: Tensor) -> None:
        """See `Trainee`."""
        self._trainer.step(x_ND)
        self._trainer.n_training_steps += 1

    def save(self, folder: Path) -> None:
        """See `Trainee`."""
        self._sae.save_inference_model(folder)


class DictionaryLearning:
    """dictionary_learning's trainers. Its jumprelu works, as the library does by default settings, on tokens of mean square norm
    1, for which its threshold and bandwidth are made; the biases are scaled back before it is saved, by its own function."""

    def __init__(self, run: Run, d_model: int) -> None:
        common: dict[str, Any] = {
            "steps": N_STEPS, "activation_dim": d_model, "dict_size": N_FEATURES, "lr": LEARNING_RATE, "layer": 0,
            "lm_name": "bench", "device": "cpu", "seed": run.seed, "warmup_steps": 0, "decay_start": DECAY_START,
        }  # fmt: skip
        torch.manual_seed(run.seed)  # not every trainer of the library seeds by itself
        self._norm = d_model**0.5 if run.architecture.startswith("jumprelu") else 1.0
        self._trainer = _dictionary_trainer(run, common)
        self._trainer.dead_feature_threshold = DEAD_AFTER_TOKENS  # no argument of its trainers

    def step(self, index: int, x_ND: Tensor) -> None:
        """See `Trainee`."""
        self._trainer.update(index, x_ND / self._norm)

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """See `Trainee`."""
        ae = self._trainer.ae
        if self._norm != 1.0:
            ae.scale_biases(self._norm)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        config = {"trainer": self._trainer.config, "buffer": {"io": "out"}}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _dictionary_trainer(run: Run, common: dict[str, Any]) -> Any:
    from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, matryoshka_batch_top_k, standard, top_k

    penalised = common | {"l1_penalty": run.sparsity, "sparsity_warmup_steps": WARMUP_STEPS}
    by_k = common | {"k": int(run.sparsity), "threshold_beta": 0.99, "threshold_start_step": 0}
    match run.architecture:
        case "relu_l1":
            return standard.StandardTrainerAprilUpdate(**penalised)
        case "gated":
            return gdm.GatedSAETrainer(**penalised)
        case "topk":
            return top_k.TopKTrainer(**by_k)
        case "batch_topk":
            return batch_top_k.BatchTopKTrainer(**by_k)
        case "matryoshka":
            lengths = prefix_lengths(N_FEATURES, PREFIXES)
            fractions = [(last - first) / N_FEATURES for first, last in zip([0, *lengths[:-1]], lengths, strict=True)]
            return matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer(group_fractions=fractions, **by_k)
        case "jumprelu" | "jumprelu_early" | "jumprelu_step":
            return jumprelu.JumpReluTrainer(target_l0=run.sparsity, sparsity_warmup_steps=WARMUP_STEPS, **common)
    raise ValueError(run.architecture)


def make(run: Run, d_model: int) -> SaeLens | DictionaryLearning:
    """A peer's SAE at its start."""
    return (SaeLens if run.contender == SAELENS else DictionaryLearning)(run, d_model)
