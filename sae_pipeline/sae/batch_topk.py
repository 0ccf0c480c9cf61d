"""BatchTopK: the k N largest f_i ‖W_dec,i‖ of a batch of N tokens are active (Bussmann et al. 2024).

A token may use more features than another; k is the mean. At inference a stored threshold replaces the choice within a batch,
so that a token's features never depend on its neighbours.

Shapes: N tokens, F features, P active pairs.
"""

import torch
from torch import Tensor

from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.kernels import Pairs, pairs_from
from sae_pipeline.sae.parameters import Parameters
from sae_pipeline.sae.preactivations import PreActivations

# Weight of the past in the running average of the batch's smallest kept value: about the last hundred steps decide. That value
# still falls with the learning rate, so the average lies a little above its end. Held-out tokens activate a few more features
# than training tokens at equal threshold, and so their mean number stays near k (demo, 16,384 features, k 32: 31.8; with the
# final weights' own value on training batches it would be 34.3).
THRESHOLD_DECAY = 0.99


class BatchTopK(Architecture):
    """Keeps exactly k N pairs per batch (fewer only if fewer are positive); no penalty."""

    name = "batch_topk"

    def __init__(self, k: int) -> None:
        self.k = k
        self._last_smallest = 0.0
        self._average = 0.0
        self._weight = 0.0

    def select(self, z: PreActivations, at_most: int) -> Pairs:
        """The k N largest entries of the batch, as far as they are positive."""
        n_keep = self.k * z.n_tokens
        position_C, value_C = self._candidates(z, n_keep)
        if len(position_C) > n_keep:
            chosen_P = value_C.topk(n_keep, sorted=False).indices.int().sort().values
            position_C, value_C = position_C[chosen_P], value_C[chosen_P]
        if len(value_C):
            self._last_smallest = float(value_C.min())
            self._average = THRESHOLD_DECAY * self._average + (1 - THRESHOLD_DECAY) * self._last_smallest
            self._weight = THRESHOLD_DECAY * self._weight + (1 - THRESHOLD_DECAY)
        return pairs_from(position_C, value_C, z.n_tokens, z.n_features)

    def _candidates(self, z: PreActivations, n_keep: int) -> tuple[Tensor, Tensor]:
        """A superset of the n_keep largest, cheaply: what exceeds a guess from the last batch; the guess falls until it suffices.

        The result of `select` does not depend on the guess, only its speed does.
        """
        guess = self._last_smallest or _guess_from_rows(next(z.tiles())[1], self.k)
        while True:
            guess = 0.9 * guess if guess > 1e-4 else 0.0
            position_C, value_C = z.above(guess)
            if len(position_C) >= n_keep or guess == 0.0:
                return position_C, value_C

    @property
    def threshold(self) -> float:
        """Running average of the smallest kept value, in published units."""
        return self._average / self._weight if self._weight else 0.0

    def inference(self, parameters: Parameters) -> tuple[Parameters, float]:
        """Active above the running threshold."""
        return parameters, self.threshold

    def state(self) -> dict[str, float]:
        """The running threshold."""
        return {"last_smallest": self._last_smallest, "average": self._average, "weight": self._weight}

    def load_state(self, state: dict[str, float]) -> None:
        """Inverse of `state`."""
        self._last_smallest, self._average, self._weight = state["last_smallest"], state["average"], state["weight"]


def _guess_from_rows(z_NF: Tensor, k: int) -> float:
    """The smallest kept value if the first rows were the batch."""
    rows = z_NF[:16].float().reshape(-1)
    n_keep = k * min(16, len(z_NF))
    return max(0.0, float(torch.topk(rows, n_keep).values.min()))
