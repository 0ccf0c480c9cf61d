"""AuxK: features that have been silent for long learn to explain what the others leave over (Gao et al. 2024, appendix A.2).

The auxiliary loss is SHARE x ‖e - e_hat‖² per token, e = x - x_hat being held fixed and e_hat the sum over each token's largest
positive pre-activations of dead features. Work is proportional to the number of dead features, none when all are alive.

Shapes: N tokens, R tokens of a tile, F features, A dead features, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.sae.parameters import Published
from sae_pipeline.sae.preactivations import PreActivations

SHARE = 1 / 32
K_AUX = 256
TILE_ENTRIES = 2**25  # of tokens x dead features: a batch of 2,048 tokens with 16,384 dead ones is one tile


@dataclass(frozen=True)
class AuxGradients:
    """Gradients of the dead features in published units: decoder rows, encoder rows, pre-activations summed over tokens."""

    feature_A: Tensor
    dV_AD: Tensor
    dW_AD: Tensor
    du_A: Tensor


def revive(
    dead_F: Tensor, z: PreActivations, x_low_ND: Tensor, error_ND: Tensor, weights: Published, n_dead: int | None = None
) -> AuxGradients | None:
    """Gradients of the auxiliary loss; None when no feature is dead. `error_ND` is x_hat - x, float32.

    `n_dead`: how many features were dead some steps ago. Then nobody waits to see how many are: room is made for the next power
    of two, a rest stays zero, and should more have died meanwhile, some are revived when that is known.
    """
    if n_dead is None:
        feature_A = dead_F.nonzero().squeeze(1)
    else:
        n_places = min(len(dead_F), 1 << (n_dead - 1).bit_length()) if n_dead else 0
        feature_A = (~dead_F).sort(stable=True).indices[:n_places]
    if not len(feature_A):
        return None
    n_rows, V_AD, made = max(1, TILE_ENTRIES // len(feature_A)), weights.W_dec_FD[feature_A], None
    for first in range(0, z.n_tokens, n_rows):
        rows = slice(first, first + n_rows)
        u_RA = z.columns(feature_A, rows).relu_()
        if n_dead is not None:
            u_RA *= dead_F[feature_A]
        part = _of_tile(u_RA, V_AD, x_low_ND[rows], error_ND[rows], z.n_tokens)
        # Sums of several tiles are float32, whatever the products' dtype.
        made = part if made is None else tuple(whole.float() + more for whole, more in zip(made, part, strict=True))
    assert made is not None
    return AuxGradients(feature_A, *made)


def _of_tile(u_RA: Tensor, V_AD: Tensor, x_low_RD: Tensor, error_RD: Tensor, n_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    if u_RA.shape[1] > K_AUX:
        kth_R1 = u_RA.topk(K_AUX, dim=1).values[:, -1:]
        u_RA *= u_RA >= kth_R1
    # d/d e_hat of SHARE ‖e - e_hat‖² / N with e = -error.
    g_RD = ((u_RA @ V_AD).float() + error_RD).mul_(2 * SHARE / n_tokens).to(u_RA.dtype)
    du_RA = (g_RD @ V_AD.T).mul_(u_RA > 0)
    return u_RA.T @ g_RD, du_RA.T @ x_low_RD, du_RA.sum(0, dtype=torch.float32)
