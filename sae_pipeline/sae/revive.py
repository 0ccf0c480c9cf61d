"""AuxK: features that have been silent for long learn to explain what the others leave over (Gao et al. 2024, appendix A.2).

The auxiliary loss is SHARE x ‖e - e_hat‖² per token, e = x - x_hat being held fixed and e_hat the sum over each token's largest
positive pre-activations of dead features. Work is proportional to the number of dead features, none when all are alive.

Shapes: N tokens, F features, A dead features, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.sae.parameters import Published
from sae_pipeline.sae.preactivations import PreActivations

SHARE = 1 / 32
K_AUX = 256


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
    n_tokens, dtype = z.n_tokens, x_low_ND.dtype
    u_NA = z.columns(feature_A).relu_()
    if n_dead is not None:
        u_NA *= dead_F[feature_A]
    if len(feature_A) > K_AUX:
        kth_N1 = u_NA.topk(K_AUX, dim=1).values[:, -1:]
        u_NA *= u_NA >= kth_N1
    V_AD = weights.W_dec_FD[feature_A]
    # d/d e_hat of SHARE ‖e - e_hat‖² / N with e = -error.
    g_ND = ((u_NA @ V_AD).float() + error_ND).mul_(2 * SHARE / n_tokens).to(dtype)
    du_NA = (g_ND @ V_AD.T).mul_(u_NA > 0)
    return AuxGradients(feature_A, u_NA.T @ g_ND, du_NA.T @ x_low_ND, du_NA.sum(0, dtype=torch.float32))
