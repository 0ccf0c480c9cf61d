"""The paper's SAE: ReLU with an L1 penalty weighted by the decoder norms.

Loss per token: ‖x - x_hat‖² summed over D + lambda sum_i f_i ‖W_dec,i‖ (paper, 'Our approach to feature extraction'; the recipe
is that of the April 2024 update: lambda rises linearly from 0 over the first 5 % of steps, no decoder constraint).

While training the encoder sees x - b_dec. The functions are the same, and the published form has it folded in; but b_dec then
moves all pre-activations at once, which single biases do slowly: bench/RESULTS.md, 'Quality at equal budget'.
"""

import math

from sae_pipeline.sae.architecture import Architecture, all_positive
from sae_pipeline.sae.kernels import Pairs
from sae_pipeline.sae.preactivations import PreActivations

WARMUP_SHARE = 0.05


class ReluL1(Architecture):
    """Every positive pre-activation is active. Sparsity comes from `l1` (lambda); it is divided by sqrt(1 - m) when data are
    centred, m being the share of E‖r‖² that the mean held, because centring then enlarges what is left by that factor."""

    name = "relu_l1"
    initial_decoder_norm = 0.1
    revives_dead_features = False

    def __init__(self, l1: float, center_share: float = 0.0) -> None:
        self.l1 = l1 / math.sqrt(1 - center_share)

    def penalty(self, step: int, n_steps: int) -> float:
        """lambda at this step."""
        return self.l1 * min(1.0, step / max(1.0, WARMUP_SHARE * n_steps))

    def select(self, z: PreActivations, at_most: int) -> Pairs | None:
        """All positive entries."""
        return all_positive(z, at_most)
