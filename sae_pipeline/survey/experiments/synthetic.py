"""Ground truth: activations that are sums of a few known directions, more directions than dimensions (superposition).

A dictionary that only looks good on real activations may have found none of their features (Korznikov et al. 2026: 71 % of the
variance, 9 % of the features). Here the features are known: one counts as recovered when a decoder row has a cosine of at least
.9 with it.

Shapes: N tokens, Q planted directions, F features, D width, A active directions of a token.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.names import Architecture
from sae_pipeline.survey.experiments.arms import Arm, train_arms
from sae_pipeline.survey.thresholds import thresholds

D_MODEL, N_DIRECTIONS, N_ACTIVE, NOISE = 64, 128, 4, 0.02
BATCH = 512
# k is the planted number; lambdas were chosen on seed 100, which is not reported, to give about as many active features.
SPARSITY: dict[Architecture, float] = {
    "relu_l1": 1.0, "gated": 2.0, "jumprelu": 0.6, "topk": N_ACTIVE, "batch_topk": N_ACTIVE, "matryoshka": N_ACTIVE,
}  # fmt: skip
FROZEN = "frozen decoder"


class PlantedStream:
    """Fresh tokens without end. `direction_QD` depends on `seed`, the tokens on `seed` and `tokens`."""

    def __init__(self, seed: int, batch: int, tokens: int = 0) -> None:
        self.d_model, self._batch = D_MODEL, batch
        # Far from the seeds of trainings: equal seeds would plant the very directions that a decoder starts from.
        first = 1_000_003 + 3 * seed
        generator = torch.Generator().manual_seed(first)
        self.direction_QD = normalize(torch.randn(N_DIRECTIONS, D_MODEL, generator=generator), dim=1)
        # Frequencies fall as the root of the rank: the rarest direction is a tenth as frequent as the first.
        self._weight_Q = torch.arange(1, N_DIRECTIONS + 1).float().rsqrt()
        # Strengths are uniform in 1 .. 2 and directions nearly orthogonal on average.
        self._scale = (D_MODEL / (N_ACTIVE * 7 / 3)) ** 0.5
        self._generator = torch.Generator().manual_seed(first + 1 + tokens)

    def next(self) -> Tensor:
        """See `Batches`."""
        which_NA = torch.multinomial(self._weight_Q.expand(self._batch, -1), N_ACTIVE, generator=self._generator)
        strength_NA = 1 + torch.rand(self._batch, N_ACTIVE, generator=self._generator)
        x_ND = torch.einsum("na,nad->nd", strength_NA, self.direction_QD[which_NA])
        x_ND = x_ND + NOISE * torch.randn(self._batch, D_MODEL, generator=self._generator)
        return self._scale * x_ND


def synthetic_arms(seed: int, n_steps: int, learning_rate: float) -> list[Arm]:
    """Every architecture, and batch_topk with a decoder that is never trained."""
    arms = [
        Arm(name, name, N_DIRECTIONS, n_steps, learning_rate, sparsity, seed) for name, sparsity in SPARSITY.items()
    ]  # fmt: skip
    return [*arms, Arm("frozen_decoder", "batch_topk", N_DIRECTIONS, n_steps, learning_rate, N_ACTIVE, seed, True)]


def recovery(seeds: Sequence[int], n_steps: int, learning_rate: float, folder: Path) -> pl.DataFrame:
    """Table `synthetic_recovery`: one row per architecture and seed."""
    rows = []
    for seed in seeds:
        held_out = PlantedStream(seed, 8 * BATCH, tokens=1)
        saes = train_arms(
            synthetic_arms(seed, n_steps, learning_rate), lambda seed=seed: PlantedStream(seed, BATCH), BATCH,
            torch.zeros(D_MODEL), 1.0, folder / f"synthetic-{seed}",
        )  # fmt: skip
        x_ND = held_out.next()
        for name, sae in saes.items():
            codes = sae.encode_sparse(x_ND)
            error = (x_ND - sae.decode_sparse(codes)).square().sum()
            best_Q = best_cosines(held_out.direction_QD, sae)
            rows.append({
                "architecture": name.replace("_decoder", " decoder"), "seed": seed, "n_planted": N_DIRECTIONS,
                "n_recovered": int((best_Q >= thresholds().recovered_cosine).sum()), "median_best_cosine": float(best_Q.median()),
                "l0": len(codes.value) / len(x_ND),
                "explained_variance": 1 - float(error / (x_ND - x_ND.mean(0)).square().sum()),
            })  # fmt: skip
    return pl.DataFrame(rows)


def best_cosines(direction_QD: Tensor, sae: SparseAutoencoder) -> Tensor:
    """The largest cosine of any decoder row with each planted direction, Q."""
    return (direction_QD @ sae.W_dec_FD.T).max(dim=1).values
