"""Two banks of units in one form: the features of an SAE, and as many random directions, each as dense as one feature.

Shapes: N tokens, D width, F units.

A random direction is given the threshold that makes it active on the same share of training tokens as the feature of its number,
so that a selection over all of them has the same chances.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import random_directions

DIRECTIONS_AT_ONCE = 512


@dataclass(frozen=True)
class Banks:
    """`features`: the SAE. `null`: the random directions, in the form of an SAE with encoder = decoder."""

    features: SparseAutoencoder
    null: SparseAutoencoder


def random_bank(sae: SparseAutoencoder, r_ND: Tensor, density_F: np.ndarray, seed: int) -> SparseAutoencoder:
    """One random direction per feature, active on a share `density_F` of the raw training activations `r_ND`.

    A feature rarer than one in N tokens gets the largest value seen as its threshold. Raises `ValueError` for no tokens.
    """
    if not len(r_ND):
        raise ValueError("no activations to fit thresholds on")
    W_FD = random_directions(sae.n_features, sae.d_model, torch.Generator().manual_seed(seed))
    x_ND = sae.encoder_input(r_ND).x.cpu()
    n_active_F = np.clip(np.rint(density_F * len(x_ND)).astype(int), 0, len(x_ND) - 1)
    threshold_F = torch.empty(sae.n_features)
    for first in range(0, sae.n_features, DIRECTIONS_AT_ONCE):
        z_CN = (W_FD[first : first + DIRECTIONS_AT_ONCE] @ x_ND.T).numpy()
        for c, n_active in enumerate(n_active_F[first : first + DIRECTIONS_AT_ONCE]):
            place = len(x_ND) - 1 - n_active
            threshold_F[first + c] = float(np.partition(z_CN[c], place)[place])
    # Activations are positive by definition; a direction above that share of zero keeps the zero.
    weights = {
        "W_enc_FD": W_FD, "b_enc_F": torch.zeros(sae.n_features), "W_dec_FD": W_FD, "b_dec_D": torch.zeros(sae.d_model),
        "threshold_F": threshold_F.clamp(min=0.0), "mean_D": sae.mean_D.cpu(),
    }  # fmt: skip
    config = {**sae.config, "architecture": "batch_topk"}
    device = sae.W_enc_FD.device
    return SparseAutoencoder({name: value.to(device) for name, value in weights.items()}, config)
