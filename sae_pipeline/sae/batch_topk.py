"""BatchTopK: the k N largest f_i ‖W_dec,i‖ of a batch of N tokens are active (Bussmann et al. 2024).

A token may use more features than another; k is the mean. At inference a stored threshold replaces the choice within a batch,
so that a token's features never depend on its neighbours.

Shapes: N tokens, F features, P active pairs.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sae_pipeline.sae import gpu
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.kernels import Pairs, pairs_from
from sae_pipeline.sae.parameters import Parameters
from sae_pipeline.sae.preactivations import PreActivations

# Weight of the past in the running average of the batch's smallest kept value: about the last hundred steps decide. That value
# still falls with the learning rate, so the average lies a little above its end. Held-out tokens activate a few more features
# than training tokens at equal threshold, and so their mean number stays near k (demo, 16,384 features, k 32: 31.8; with the
# final weights' own value on training batches it would be 34.3).
THRESHOLD_DECAY = 0.99
# On a GPU some tokens' values are ranked. What exceeds the value that so many times k of them reach (a hair less: equal ones
# count) is set aside, in twice as many places. A rank and not a share of the k-th value: the larger F / k, the more values lie
# just below any value (of Gaussian ones at F / k of 65,536 5 times as many exceed nine tenths of the k-th).
SAMPLED_TOKENS, GPU_CANDIDATES, GPU_MARGIN = 256, 2, 0.998


class BatchTopK(Architecture):
    """Keeps exactly k N pairs per batch (fewer only if fewer are positive); no penalty."""

    name = "batch_topk"

    def __init__(self, k: int) -> None:
        self.k = k
        self._last_smallest: float | Tensor = 0.0
        self._average: float | Tensor = 0.0
        self._weight: float | Tensor = 0.0

    def entries_per_token(self) -> int:
        """k."""
        return self.k

    def select(self, z: PreActivations, at_most: int) -> Pairs:
        """The k N largest entries of the batch, as far as they are positive."""
        n_keep = self.k * z.n_tokens
        if z.on_gpu:
            return self._select_on_gpu(z, n_keep)
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
        guess = float(self._last_smallest) or _guess_from_rows(next(z.tiles())[1], self.k)
        while True:
            guess = 0.9 * guess if guess > 1e-4 else 0.0
            position_C, value_C = z.above(guess)
            if len(position_C) >= n_keep or guess == 0.0:
                return position_C, value_C

    def _select_on_gpu(self, z: PreActivations, n_keep: int) -> Pairs:
        """The same with as many places as kept pairs; the guess comes from some of the batch's own tokens. Of equal values the
        first are kept. `is_short` in the rare case that the guess was of no use."""
        rows_RF = z.first_rows(SAMPLED_TOKENS)
        rank = min(GPU_CANDIDATES * self.k, z.n_features) * len(rows_RF)
        least = GPU_MARGIN * rows_RF.reshape(-1).topk(rank, sorted=False).values.min().float().clamp(min=0)
        found = gpu.pairs_above(z, least, min(2 * GPU_CANDIDATES * n_keep, z.n_tokens * z.n_features))
        kth = found.value_P.topk(n_keep, sorted=False).values.min()
        above_P, equal_P = found.value_P > kth, (found.value_P == kth) & (kth > 0)
        keep_P = above_P | (equal_P & (equal_P.cumsum(0) <= n_keep - above_P.sum()))
        assert found.is_short is not None
        is_short = found.is_short | ((found.offsets_N1[-1] < n_keep) & (least > 0))
        chosen = replace(gpu.kept(found, keep_P, n_keep), is_short=is_short)

        smallest = torch.where(keep_P, found.value_P, torch.inf).min().double()
        is_new = smallest.isfinite() & ~is_short
        last, average, weight = (
            one if isinstance(one, Tensor) else torch.full_like(smallest, one)
            for one in (self._last_smallest, self._average, self._weight)
        )
        self._last_smallest = torch.where(is_new, smallest, last)
        self._average = torch.where(is_new, THRESHOLD_DECAY * average + (1 - THRESHOLD_DECAY) * smallest, average)
        self._weight = torch.where(is_new, THRESHOLD_DECAY * weight + (1 - THRESHOLD_DECAY), weight)
        return chosen

    @property
    def threshold(self) -> float:
        """Running average of the smallest kept value, in published units."""
        return float(self._average) / float(self._weight) if self._weight else 0.0

    def inference(self, parameters: Parameters) -> tuple[Parameters, float]:
        """Active above the running threshold."""
        return parameters, self.threshold

    def state(self) -> dict[str, float]:
        """The running threshold."""
        return {
            "last_smallest": float(self._last_smallest), "average": float(self._average), "weight": float(self._weight)
        }  # fmt: skip

    def load_state(self, state: dict[str, float]) -> None:
        """Inverse of `state`."""
        self._last_smallest, self._average, self._weight = state["last_smallest"], state["average"], state["weight"]


def _guess_from_rows(z_NF: Tensor, k: int) -> float:
    """The smallest kept value if the first rows were the batch."""
    rows = z_NF[:16].float().reshape(-1)
    n_keep = k * min(16, len(z_NF))
    return max(0.0, float(torch.topk(rows, n_keep).values.min()))
