"""TopK: the k largest f_i ‖W_dec,i‖ of each token are active (Gao et al. 2024, 'Scaling and evaluating sparse autoencoders').

Shapes: N tokens, F features, P active pairs.
"""

import torch
from torch import Tensor

from sae_pipeline.sae.kernels import Pairs


class TopK:
    """The sparsity is fixed per token, in training and at inference alike; no penalty."""

    name = "topk"
    initial_decoder_norm = 1.0
    subtracts_decoder_bias = True
    revives_dead_features = True

    def __init__(self, k: int) -> None:
        self.k = k

    def penalty(self, step: int, n_steps: int) -> float:
        """No sparsity penalty."""
        return 0.0

    def select(self, z_NF: Tensor) -> Pairs:
        """The k largest entries of each row, as far as they are positive."""
        return largest_of_each_row(z_NF, self.k)

    def inference_threshold(self) -> float:
        """Active means positive and among the k largest."""
        return 0.0

    def state(self) -> dict[str, float]:
        """Nothing is carried from step to step."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        """See `state`."""


def largest_of_each_row(z_NF: Tensor, k: int) -> Pairs:
    """The k largest positive entries of each row as pairs, features ascending within a token."""
    n_tokens = len(z_NF)
    value_NK, feature_NK = z_NF.topk(k, dim=1, sorted=False)
    feature_NK, order_NK = feature_NK.int().sort(dim=1)
    value_P = value_NK.gather(1, order_NK).reshape(-1)
    keep_P = value_P > 0
    token_P = torch.arange(n_tokens, dtype=torch.int32, device=z_NF.device).repeat_interleave(k)[keep_P]
    edges = torch.arange(n_tokens + 1, dtype=torch.int32, device=z_NF.device)
    offsets_N1 = torch.searchsorted(token_P, edges).int()
    return Pairs(offsets_N1, token_P, feature_NK.reshape(-1)[keep_P], value_P[keep_P])
