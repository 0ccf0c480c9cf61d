"""Units that may stand for a concept: the SAE's features, and as many random directions of the same densities.

Both go through every method and every selection, so that what a search finds can be compared with what it finds among nothing.

Shapes: T positions, N tokens of the sample, D width, F units.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.progress import track
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import random_directions

DIRECTIONS_AT_ONCE, TOKENS_AT_ONCE = 1024, 256


@dataclass(frozen=True)
class Bank:
    """F units. `rows_FD`: unit direction of each. `threshold_F` is None for features, which the SAE itself encodes."""

    sae: SparseAutoencoder
    rows_FD: Tensor
    threshold_F: Tensor | None = None

    def activations(self, r_ND: Tensor) -> Tensor:
        """N x F float32; for a few texts at a time."""
        if self.threshold_F is None:
            return self.sae.encode(r_ND).cpu()
        return (self.sae.scaled(r_ND).cpu() @ self.rows_FD.T - self.threshold_F).clamp(min=0)

    def columns(self, r_ND: Tensor, units: np.ndarray) -> Tensor:
        """The activations of some units, N x len(units)."""
        units_K = torch.from_numpy(units)
        if self.threshold_F is None:
            return torch.cat([self.activations(part_ND)[:, units_K] for part_ND in r_ND.split(TOKENS_AT_ONCE)])
        return Bank(self.sae, self.rows_FD[units_K], self.threshold_F[units_K]).activations(r_ND)


def feature_bank(sae: SparseAutoencoder) -> Bank:
    """The features."""
    return Bank(sae, sae.W_dec_FD.float().cpu())


def sample_tokens(reader: ActivationReader, split: str, n: int, seed: int) -> Tensor:
    """Indices of `n` unmasked tokens of a split, ascending (all of them if fewer)."""
    index_N = reader.token_index(split)
    if len(index_N) <= n:
        return index_N
    chosen = np.random.default_rng([seed, len(index_N)]).choice(len(index_N), n, replace=False)
    return index_N[torch.from_numpy(np.sort(chosen))]


def direction_bank(sae: SparseAutoencoder, r_ND: Tensor, density_F: np.ndarray, seed: int) -> Bank:
    """One random direction per feature, active on the share `density_F` of the sample `r_ND`."""
    x_ND = sae.scaled(r_ND).cpu()
    rows_FD = random_directions(len(density_F), sae.d_model, torch.Generator().manual_seed(seed))
    n_active_F = torch.from_numpy(np.clip(np.round(density_F * len(x_ND)), 0, len(x_ND) - 1).astype(np.int64))
    thresholds = []
    for start in track(range(0, len(rows_FD), DIRECTIONS_AT_ONCE), "random directions", unit="chunks"):
        sorted_NC = (x_ND @ rows_FD[start : start + DIRECTIONS_AT_ONCE].T).sort(0, descending=True).values
        thresholds.append(sorted_NC.gather(0, n_active_F[start : start + DIRECTIONS_AT_ONCE][None])[0])
    return Bank(sae, rows_FD, torch.cat(thresholds))
