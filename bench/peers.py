"""The peers' own training steps, as their packages ship them, started from our weights.

Imports happen on use: each contender runs in a process of its own, in the environment that has its package.
"""

from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contenders import JUMPRELU_BANDWIDTH, JUMPRELU_THRESHOLD, L1
from bench.setting import Spec, bias_for_l0, initial_decoder, settings_of

ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}
AUX_SHARE = 1 / 32  # of AuxK's loss, ours and dictionary_learning's default


class SaeLens:
    """SAELens `SAETrainer.step`. dtype bfloat16 is its `autocast`. Options: `rescale` is its default decoder-norm rescaling;
    `aux`, its AuxK coefficient (its default is 1); `dead`: see `bench.contenders.Ours`."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        shape, options = spec.shape, spec.options or {}
        rescale, aux = bool(options.get("rescale", False)), float(options.get("aux", 0.0))
        common: dict[str, Any] = {
            "d_in": shape.d_model, "d_sae": shape.n_features, "rescale_acts_by_decoder_norm": rescale,
            "normalize_activations": "none", "apply_b_dec_to_input": True, "aux_loss_coefficient": aux,
            "use_sparse_activations": False, "device": spec.device,
        }  # fmt: skip
        if spec.architecture == "topk":
            sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=shape.k, **common))
        else:
            sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=float(shape.k), **common))
        W_FD = torch.from_numpy(initial_decoder(shape, spec.seed)).to(spec.device)
        sae.W_enc.data.copy_(W_FD.T)
        sae.W_dec.data.copy_(W_FD)
        trainer: dict[str, Any] = {
            "n_checkpoints": 0, "checkpoint_path": None, "save_final_checkpoint": False, "total_training_samples": 10**12,
            "device": spec.device, "autocast": spec.dtype == "bfloat16", "lr": spec.learning_rate, "lr_end": spec.learning_rate,
            "lr_scheduler_name": "constant", "lr_warm_up_steps": 0, "lr_decay_steps": 0, "n_restart_cycles": 1,
            "train_batch_size_samples": shape.batch, "adam_beta1": 0.9, "adam_beta2": 0.999, "dead_feature_window": 10**9,
            "feature_sampling_window": 10**9,
        }  # fmt: skip
        config = SAETrainerConfig(**trainer, logger=LoggingConfig(log_to_wandb=False))
        self._trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
        self._n_dead = round(options.get("dead", 0) * shape.n_features)
        self.config = {
            "version": version("sae-lens"), "sae": vars(sae.cfg).copy(), "trainer": vars(config).copy(), "clip_norm": 1.0,
            "dead": self._n_dead,
        }  # fmt: skip

    def step(self, x_ND: Tensor) -> None:
        """As in its `fit`, without logging."""
        self._trainer.n_forward_passes_since_fired[: self._n_dead] = 10**10
        self._last = self._trainer.step(x_ND)
        self._trainer.n_training_steps += 1

    def mse(self, x_ND: Tensor) -> float:
        """Of its own forward pass."""
        from sae_lens.saes.sae import TrainStepInput

        given = TrainStepInput(
            sae_in=x_ND,
            dead_neuron_mask=None,
            coefficients=self._trainer.get_coefficients(),
            n_training_steps=0,
            is_logging_step=False,
        )
        made = self._trainer.sae.training_forward_pass(given)
        return float(made.losses["mse_loss"])


class DictionaryLearning:
    """dictionary_learning's trainers, `update`. dtype bfloat16: as its `trainSAE(autocast_dtype=bfloat16)`. Options: `dead`, with
    which its AuxK is on as by default (see `bench.contenders.Ours`)."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        shape = spec.shape
        settings: dict[str, Any] = {
            "steps": 10**6, "activation_dim": shape.d_model, "dict_size": shape.n_features, "lr": spec.learning_rate,
            "layer": 0, "lm_name": "bench", "device": spec.device, "seed": 0, "warmup_steps": 0,
        }  # fmt: skip
        W_FD = torch.from_numpy(initial_decoder(shape, spec.seed)).to(spec.device)
        self._n_dead = round((spec.options or {}).get("dead", 0) * shape.n_features)
        self._trainer = self._make(spec.architecture, settings, shape.k, AUX_SHARE if self._n_dead else 0)
        ae = self._trainer.ae
        for weight, value in _weights(ae, W_FD):
            weight.data.copy_(value)
        bias = bias_for_l0(x_ND, initial_decoder(shape, spec.seed), spec.target_l0) if spec.target_l0 else 0.0
        (ae.encoder.bias if hasattr(ae, "encoder") else ae.b_enc).data.fill_(bias)
        self._autocast = spec.dtype == "bfloat16"
        self._device = torch.device(spec.device).type
        self._step = 1  # step 0 runs a geometric median
        self.config = {
            "version": version("dictionary-learning"), "trainer": self._trainer.config | settings_of(self._trainer),
            "autocast": self._autocast, "clip_norm": 1.0, "dead": self._n_dead,
        }  # fmt: skip

    @staticmethod
    def _make(architecture: str, settings: dict[str, Any], k: int, auxk_alpha: float):
        if architecture == "topk":
            from dictionary_learning.trainers.top_k import TopKTrainer

            return TopKTrainer(k=k, auxk_alpha=auxk_alpha, **settings)
        if architecture == "batch_topk":
            from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

            return BatchTopKTrainer(k=k, auxk_alpha=auxk_alpha, **settings)
        if architecture == "matryoshka":
            from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer

            fractions = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
            return MatryoshkaBatchTopKTrainer(k=k, auxk_alpha=auxk_alpha, group_fractions=fractions, **settings)
        if architecture == "jumprelu":
            from dictionary_learning.trainers.jumprelu import JumpReluTrainer

            trainer = JumpReluTrainer(bandwidth=JUMPRELU_BANDWIDTH, sparsity_warmup_steps=None, **settings)
            trainer.ae.threshold.data.fill_(JUMPRELU_THRESHOLD)
            return trainer
        from dictionary_learning.trainers.standard import StandardTrainer

        return StandardTrainer(l1_penalty=L1, sparsity_warmup_steps=None, **settings)

    def step(self, x_ND: Tensor) -> None:
        """One `update`."""
        self._step += 1
        if self._n_dead:
            self._trainer.num_tokens_since_fired[: self._n_dead] = self._trainer.dead_feature_threshold
        with torch.autocast(self._device, torch.bfloat16) if self._autocast else nullcontext():
            self._trainer.update(self._step, x_ND.bfloat16() if self._autocast else x_ND)

    @torch.no_grad()
    def mse(self, x_ND: Tensor) -> float:
        """Of its own encoder and decoder."""
        ae = self._trainer.ae
        by_batch = hasattr(ae, "threshold") and "Batch" in type(ae).__name__
        f_NF = ae.encode(x_ND, use_threshold=False) if by_batch else ae.encode(x_ND)
        return float((x_ND - ae.decode(f_NF)).square().sum(1).mean())


def _weights(ae: Any, W_FD: Tensor) -> list[tuple[Tensor, Tensor]]:
    if hasattr(ae, "encoder"):
        return [(ae.encoder.weight, W_FD), (ae.decoder.weight, W_FD.T)]
    return [(ae.W_enc, W_FD.T), (ae.W_dec, W_FD)]


class Sparsify:
    """sparsify's `SparseCoder`, the steps of its training loop. Options: `fused` Adam; `dead`, with which AuxK is on at the share
    of the others (its own default is off; see `bench.contenders.Ours`)."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        import os

        if spec.device == "cpu":
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
            # Its forward asks for bfloat16 autocast on CUDA when it is imported; on a CPU that only warns.
            torch.cuda.is_bf16_supported = lambda *_: False
        from sparsify import SparseCoder
        from sparsify.config import SparseCoderConfig

        shape = spec.shape
        self._sae = SparseCoder(
            shape.d_model, SparseCoderConfig(num_latents=shape.n_features, k=shape.k), spec.device, torch.float32
        )
        W_FD = torch.from_numpy(initial_decoder(shape, spec.seed)).to(spec.device)
        self._sae.encoder.weight.data.copy_(W_FD)
        self._sae.W_dec.data.copy_(W_FD)
        options = spec.options or {}
        fused, self._dead_F = bool(options.get("fused", False)), None
        if n_dead := round(options.get("dead", 0) * shape.n_features):
            self._dead_F = torch.arange(shape.n_features, device=spec.device) < n_dead
        self._optimizer = torch.optim.Adam(self._sae.parameters(), lr=spec.learning_rate, fused=fused, **ADAM)
        self.config = {
            "version": version("eai-sparsify"), "sae": vars(self._sae.cfg).copy(), "clip_norm": None, "dead": n_dead,
            "optimizer": {name: value for name, value in self._optimizer.param_groups[0].items() if name != "params"},
        }  # fmt: skip

    def step(self, x_ND: Tensor) -> None:
        """Normalise, forward, backward, project, Adam."""
        self._sae.set_decoder_norm_to_unit_norm()
        out = self._sae(x_ND, dead_mask=self._dead_F)
        (out.fvu if self._dead_F is None else out.fvu + AUX_SHARE * out.auxk_loss).backward()
        self._sae.remove_gradient_parallel_to_decoder_directions()
        self._optimizer.step()
        self._optimizer.zero_grad()

    @torch.no_grad()
    def mse(self, x_ND: Tensor) -> float:
        """Its loss is the fraction of variance unexplained; this is the error itself."""
        return float((self._sae(x_ND).sae_out - x_ND).square().sum(1).mean())


PEERS = {"SAELens": SaeLens, "dictionary_learning": DictionaryLearning, "sparsify": Sparsify}
