"""The paper's SAE: ReLU with an L1 penalty weighted by the decoder norms.

Loss per token: ‖x - x_hat‖² summed over D + lambda sum_i f_i ‖W_dec,i‖ (paper, 'Our approach to feature extraction'; the recipe
is that of the April 2024 update: lambda rises linearly from 0 over the first 5 % of steps, no decoder constraint).

Shapes: N tokens, F features.
"""

import math

from torch import Tensor

from sae_pipeline.sae.kernels import Pairs, pairs_at, positions_above

WARMUP_SHARE = 0.05
# A pair costs about 0.35 us on two cores, a feature of a dense step 0.014 us: above one active feature in 25 dense is faster.
DENSE_ABOVE_SHARE = 1 / 25


class ReluL1:
    """Every positive pre-activation is active. Sparsity comes from `l1` (lambda); it is divided by sqrt(1 - m) when data are
    centred, m being the share of E‖r‖² that the mean held, because centring then enlarges what is left by that factor."""

    name = "relu_l1"
    initial_decoder_norm = 0.1
    subtracts_decoder_bias = False
    revives_dead_features = False

    def __init__(self, l1: float, center_share: float = 0.0) -> None:
        self.l1 = l1 / math.sqrt(1 - center_share)

    def penalty(self, step: int, n_steps: int) -> float:
        """lambda at this step."""
        return self.l1 * min(1.0, step / max(1.0, WARMUP_SHARE * n_steps))

    def select(self, z_NF: Tensor) -> Pairs | None:
        """All positive entries; None when they are so many that the dense step is faster."""
        position_P = positions_above(z_NF, 0.0)
        if len(position_P) > DENSE_ABOVE_SHARE * z_NF.numel():
            return None
        return pairs_at(z_NF, position_P)

    def inference_threshold(self) -> float:
        """Active means positive."""
        return 0.0

    def state(self) -> dict[str, float]:
        """Nothing is carried from step to step."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        """See `state`."""
