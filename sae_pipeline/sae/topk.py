"""TopK: the k largest f_i ‖W_dec,i‖ of each token are active (Gao et al. 2024, 'Scaling and evaluating sparse autoencoders').

Shapes: N tokens, R tokens of a tile, F features, P active pairs.
"""

import torch
from torch import Tensor

from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.kernels import Pairs
from sae_pipeline.sae.preactivations import PreActivations


class TopK(Architecture):
    """The sparsity is fixed per token, in training and at inference alike; no penalty."""

    name = "topk"

    def __init__(self, k: int) -> None:
        self.k = k

    def select(self, z: PreActivations, at_most: int) -> Pairs:
        """The k largest entries of each row, as far as they are positive."""
        return Pairs.cat([largest_of_each_row(z_RF, self.k) for _, z_RF in z.tiles()])


def largest_of_each_row(z_NF: Tensor, k: int, rank_F: Tensor | None = None) -> Pairs:
    """The k largest positive entries of each row as pairs, features ascending within a token. `rank_F`: rank by rank_i z_i."""
    n_tokens = len(z_NF)
    ranked_NF = z_NF if rank_F is None else z_NF * rank_F
    feature_NK = ranked_NF.topk(k, dim=1, sorted=False).indices.int().sort(dim=1).values
    value_P = z_NF.gather(1, feature_NK.long()).reshape(-1)
    keep_P = value_P > 0
    token_P = torch.arange(n_tokens, dtype=torch.int32, device=z_NF.device).repeat_interleave(k)[keep_P]
    edges = torch.arange(n_tokens + 1, dtype=torch.int32, device=z_NF.device)
    offsets_N1 = torch.searchsorted(token_P, edges).int()
    return Pairs(offsets_N1, token_P, feature_NK.reshape(-1)[keep_P], value_P[keep_P])
