"""Builder of the `sae` stage: trains one size and leaves weights, configuration and history in the work folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.precision import choose_dtype
from sae_pipeline.sae import checkpoint as checkpoints
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.gated import Gated
from sae_pipeline.sae.history import read_history
from sae_pipeline.sae.jumprelu import JumpReLU
from sae_pipeline.sae.learner import CLIP_NORM
from sae_pipeline.sae.matryoshka import Matryoshka, prefix_lengths
from sae_pipeline.sae.mixing import MixingMeter
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.source import BatchStream, PermutedStream, RingStream
from sae_pipeline.sae.topk import TopK
from sae_pipeline.sae.trainer import Trainer, TrainingPlan, train_together
from sae_pipeline.store import Outcome

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.study import Sae

# Share of the steps over which the learning rate falls to 0.
DECAY_SHARE = 0.2


def build_sae(
    activations: "ActivationReader",
    sae: "Sae",
    size: int,
    work: Path,
    origin: Mapping[str, Any] | None = None,
    device: str = "cpu",
    companions: Mapping[int, Path] | None = None,
) -> Outcome:
    """Train the SAE of `size` features on the unmasked training tokens of `activations`.

    `origin`: what else `config.json` should say about where the activations come from (model, hook, BOS policy). A run that died
    is taken up from its last checkpoint in `work`; none is left there at the end. `companions`: work folders of other sizes that
    train from the same pass; their builds then find a finished training there.
    """
    stream = make_stream(activations, sae)
    n_steps = int(stream.n_tokens * sae.epochs) // sae.batch
    if n_steps < 1:
        raise UserError(
            "sae.batch", f"{sae.batch} tokens exceed the {int(stream.n_tokens * sae.epochs)} training tokens (epochs counted)",
            "Lower sae.batch, or raise sae.epochs or the corpus budgets.",
        )  # fmt: skip
    trainer = _trainer(activations, sae, size, n_steps, stream.n_tokens, work, device)
    others = [
        _trainer(activations, sae, other, n_steps, stream.n_tokens, folder, device, keeps_last=True)
        for other, folder in (companions or {}).items()
    ]
    train_together([trainer, *others], stream, MixingMeter(activations.context, activations.document_of_token))

    dtype, why_dtype = choose_dtype(torch.device(device), "auto")
    config = {
        **_settings(activations, sae, size, stream.n_tokens), "n_steps": n_steps, "n_tokens_trained": n_steps * sae.batch,
        "product_dtype": str(dtype).removeprefix("torch."), "decay_share": DECAY_SHARE, "clip_norm": CLIP_NORM,
        "threshold_norm": activations.threshold_norm, "context": activations.context, **(origin or {}),
    }  # fmt: skip
    architecture = trainer.architecture
    with torch.no_grad():
        parameters, threshold = architecture.inference(trainer.learner.parameters)
    SparseAutoencoder.from_parameters(
        parameters, architecture.subtracts_decoder_bias, threshold, activations.mean_D, config
    ).save(work)
    checkpoints.remove(work)
    last = read_history(work).row(-1, named=True)
    return Outcome(
        metadata={
            "n_features": size, "architecture": sae.architecture, "n_steps": n_steps, "n_tokens_trained": n_steps * sae.batch,
            "explained_variance_batch": last["explained_variance_batch"], "l0_batch": last["l0"],
            "dead_fraction": last["dead_fraction"], "precision": why_dtype,
            "resumed_at_step": trainer.resumed_at_step, "trained_with": sorted(companions or {}), **trainer.mixing.means(),
        }
    )  # fmt: skip


def make_stream(activations: "ActivationReader", sae: "Sae") -> BatchStream:
    """A permutation of what is stored, or a ring over what is computed on the way."""
    seed = 2 * sae.seed + 1
    if activations.is_streamed:
        return RingStream(activations, sae.batch, sae.ring, seed)
    return PermutedStream(activations, sae.batch, seed)


def _settings(activations: "ActivationReader", sae: "Sae", size: int, n_tokens: int) -> dict[str, Any]:
    return {
        "architecture": sae.architecture, **sae.sparsity_settings, "n_features": size, "d_model": activations.d_model,
        "scale": activations.scale, "center_share": _center_share(activations), "epochs": sae.epochs, "batch": sae.batch,
        "learning_rate": sae.learning_rate_of(size), "seed": sae.seed, "n_tokens_train": n_tokens,
        **({"ring": sae.ring} if activations.is_streamed else {}),
    }  # fmt: skip


def _trainer(
    activations: "ActivationReader", sae: "Sae", size: int, n_steps: int, n_tokens: int, work: Path, device: str,
    keeps_last: bool = False,
) -> Trainer:  # fmt: skip
    plan = TrainingPlan(
        n_features=size, n_steps=n_steps, batch=sae.batch, learning_rate=sae.learning_rate_of(size), decay_share=DECAY_SHARE,
        checkpoint_every_steps=sae.checkpoint_every_steps, seed=sae.seed,
    )  # fmt: skip
    architecture = make_architecture(sae, size, activations.d_model, _center_share(activations))
    dtype = choose_dtype(torch.device(device), "auto")[0]
    settings = _settings(activations, sae, size, n_tokens)
    return Trainer(activations.d_model, architecture, plan, settings, work, dtype, device, keeps_last)


def make_architecture(sae: "Sae", size: int, d_model: int, center_share: float) -> Architecture:
    """The architecture that the study asks for; `center_share` is m of `ReluL1`."""
    match sae.architecture:
        case "relu_l1":
            return ReluL1(sae.l1_coefficient, center_share)
        case "gated":
            return Gated(sae.l1_coefficient, center_share)
        case "jumprelu":
            return JumpReLU(sae.jumprelu_coefficient, sae.sparsity_loss or "tanh", d_model, sae.jumprelu_warmup)
        case "topk":
            return TopK(sae.n_active)
        case "matryoshka":
            return Matryoshka(sae.n_active, prefix_lengths(size, sae.prefix_shares))
        case "batch_topk":
            return BatchTopK(sae.n_active)


def _center_share(activations: "ActivationReader") -> float:
    """m = ‖mu‖² / E‖r‖² over unmasked training tokens, 0 when not centred; the scaling makes E‖r - mu‖² = D / s²."""
    centre = float(activations.mean_D.double().square().sum())
    return centre / (centre + activations.d_model / activations.scale**2)
