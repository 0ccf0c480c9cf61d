"""TopK: the k largest f_i ‖W_dec,i‖ of each token are active (Gao et al. 2024, 'Scaling and evaluating sparse autoencoders').

Shapes: N tokens, R tokens of a tile, F features, P active pairs, C candidates of a token (padded).
"""

import torch
from torch import Tensor

from sae_pipeline.sae import gpu, kernels
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.kernels import Pairs
from sae_pipeline.sae.preactivations import PreActivations

# The guess, in units of a token's norm, lies this far below what the k-th value of only one token in fifty undercut in the last
# batch: then nearly every token has its k candidates, and about half as many more.
GUESS_QUANTILE, GUESS_MARGIN = 0.02, 0.97


class TopK(Architecture):
    """The sparsity is fixed per token, in training and at inference alike; no penalty."""

    name = "topk"

    def __init__(self, k: int) -> None:
        self.k = k
        self._guess: float | Tensor = 0.0

    def entries_per_token(self) -> int:
        """k."""
        return self.k

    def select(self, z: PreActivations, at_most: int) -> Pairs:
        """The k largest entries of each row, as far as they are positive."""
        norm_N = z.token_norms()
        if z.on_gpu:
            return self._select_on_gpu(z, norm_N)
        pairs = Pairs.cat([self._largest(z_RF, norm_N[first : first + len(z_RF)]) for first, z_RF in z.tiles()])
        smallest_N = torch.segment_reduce(pairs.value_P.float(), "min", offsets=pairs.offsets_N1.long(), initial=torch.inf)
        smallest_N[pairs.offsets_N1.diff() < self.k] = 0.0
        place = max(1, round(GUESS_QUANTILE * len(smallest_N)))
        self._guess = GUESS_MARGIN * float((smallest_N / norm_N.clamp(min=1e-6)).kthvalue(place).values)
        return pairs

    def _select_on_gpu(self, z: PreActivations, norm_N: Tensor) -> Pairs:
        """The same with k places for every token; the guess stays on the device."""
        value_NK = torch.zeros(z.n_tokens, self.k, dtype=z.dtype, device=norm_N.device)
        feature_NK = torch.zeros(z.n_tokens, self.k, dtype=torch.int32, device=norm_N.device)
        for first, z_RF in z.tiles():
            rows = slice(first, first + len(z_RF))
            gpu.largest_of_rows(z_RF, self._guess * norm_N[rows], value_NK[rows], feature_NK[rows])
        smallest_N = value_NK.amin(1).float() / norm_N.clamp(min=1e-6)
        self._guess = GUESS_MARGIN * smallest_N.kthvalue(max(1, round(GUESS_QUANTILE * z.n_tokens))).values
        offsets_N1 = self.k * torch.arange(z.n_tokens + 1, dtype=torch.int32, device=norm_N.device)
        token_P = torch.arange(z.n_tokens, dtype=torch.int32, device=norm_N.device).repeat_interleave(self.k)
        return Pairs(offsets_N1, token_P, feature_NK.view(-1), value_NK.view(-1))

    def _largest(self, z_RF: Tensor, norm_R: Tensor) -> Pairs:
        """What exceeds a guess from the last batch is found in one scan of the tile, and only that is ranked: a third of the time
        of ranking whole rows. Which pairs are chosen depends on the guess only among equal values."""
        if self._guess <= 0 or z_RF.device.type != "cpu":
            return largest_of_each_row(z_RF, self.k)
        found = kernels.pairs_at(z_RF, kernels.positions_above_rows(z_RF, self._guess * norm_R))
        count_R = found.offsets_N1.diff().long()
        n_columns = int(count_R.max())
        if not self.k <= n_columns <= z_RF.shape[1] // 4:
            return largest_of_each_row(z_RF, self.k)
        column_P = torch.arange(found.n_pairs) - found.offsets_N1[found.token_P.long()].long()
        place_P = found.token_P.long() * n_columns + column_P
        value_RC = torch.zeros(len(z_RF), n_columns, dtype=z_RF.dtype)
        feature_RC = torch.zeros(len(z_RF), n_columns, dtype=torch.int32)
        value_RC.view(-1)[place_P], feature_RC.view(-1)[place_P] = found.value_P, found.feature_P
        # A row's candidates come in the order of their features: sorted columns are sorted features.
        column_RK = value_RC.topk(self.k, dim=1, sorted=False).indices.sort(dim=1).values
        value_RK, feature_RK = value_RC.gather(1, column_RK), feature_RC.gather(1, column_RK)
        short = (count_R < self.k).nonzero().squeeze(1)
        if len(short):
            feature_SK = z_RF[short].topk(self.k, dim=1, sorted=False).indices.sort(dim=1).values
            value_RK[short], feature_RK[short] = z_RF[short].gather(1, feature_SK), feature_SK.int()
        return _as_pairs(value_RK, feature_RK)

    def state(self) -> dict[str, float]:
        """The guess."""
        return {"guess": float(self._guess)}

    def load_state(self, state: dict[str, float]) -> None:
        """Inverse of `state`."""
        self._guess = state["guess"]


def largest_of_each_row(z_NF: Tensor, k: int, rank_F: Tensor | None = None) -> Pairs:
    """The k largest positive entries of each row as pairs, features ascending within a token. `rank_F`: rank by rank_i z_i."""
    ranked_NF = z_NF if rank_F is None else z_NF * rank_F
    feature_NK = ranked_NF.topk(k, dim=1, sorted=False).indices.int().sort(dim=1).values
    return _as_pairs(z_NF.gather(1, feature_NK.long()), feature_NK)


def _as_pairs(value_NK: Tensor, feature_NK: Tensor) -> Pairs:
    n_tokens, k = value_NK.shape
    value_P = value_NK.reshape(-1)
    keep_P = value_P > 0
    token_P = torch.arange(n_tokens, dtype=torch.int32, device=value_NK.device).repeat_interleave(k)[keep_P]
    edges = torch.arange(n_tokens + 1, dtype=torch.int32, device=value_NK.device)
    offsets_N1 = torch.searchsorted(token_P, edges).int()
    return Pairs(offsets_N1, token_P, feature_NK.reshape(-1)[keep_P], value_P[keep_P])
