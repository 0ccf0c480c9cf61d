"""Sparse kernels that every architecture shares: exact gradients without any dense gradient of size tokens x features.

Shapes: N tokens of a batch, F features, D width, P active (token, feature) pairs of the batch.

Everything is in *published units*: the value of a pair is the feature activation f_i ‖W_dec,i‖ and decoder rows have norm 1
(paper, 'Our approach to feature extraction'). A dense step costs six matrix products of 2 N F D operations, these kernels cost
one (the encoder) plus work proportional to P D, through `embedding_bag`: it gathers and sums rows without materialising them.
On a GPU the kernels of `gpu` do the same.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from sae_pipeline.sae import gpu

SCANNED_AT_ONCE = 2**21  # entries compared before they are searched: what a cache holds


@dataclass(frozen=True)
class Pairs:
    """Active (token, feature) pairs of a batch, sorted by token: a sparse N x F matrix in row-compressed form (int32 indices).

    On a GPU the length of the arrays does not depend on data: places that hold no pair have the value 0 and count for nothing.
    """

    offsets_N1: Tensor
    token_P: Tensor
    feature_P: Tensor
    value_P: Tensor
    is_short: Tensor | None = None
    """0-dim bool, on a GPU: pairs are missing because there were fewer places. Such a step must not be taken."""

    @property
    def n_tokens(self) -> int:
        """Tokens in the batch, active or not."""
        return len(self.offsets_N1) - 1

    @property
    def n_pairs(self) -> int:
        """Active pairs in the batch (on a GPU: places)."""
        return len(self.feature_P)

    @staticmethod
    def cat(parts: "list[Pairs]") -> "Pairs":
        """Pairs of consecutive tokens as one."""
        if len(parts) == 1:
            return parts[0]
        offsets, token, n_tokens, n_pairs = [parts[0].offsets_N1[:1]], [], 0, 0
        for part in parts:
            offsets.append(part.offsets_N1[1:] + n_pairs)
            token.append(part.token_P + n_tokens)
            n_tokens, n_pairs = n_tokens + part.n_tokens, n_pairs + part.n_pairs
        feature_P, value_P = (torch.cat([getattr(part, name) for part in parts]) for name in ("feature_P", "value_P"))
        return Pairs(torch.cat(offsets), torch.cat(token), feature_P, value_P)

    def subset(self, keep_P: Tensor, value_P: Tensor) -> "Pairs":
        """The pairs where `keep_P`, with other values."""
        token_P = self.token_P[keep_P]
        return Pairs(_offsets(token_P, self.n_tokens), token_P, self.feature_P[keep_P], value_P[keep_P])


@dataclass(frozen=True)
class ByFeature:
    """The same pairs sorted by feature: `order_P` permutes the pairs, `offsets_F1` delimits the features."""

    offsets_F1: Tensor
    order_P: Tensor
    token_P: Tensor

    @property
    def count_F(self) -> Tensor:
        """Tokens on which each feature is active."""
        return self.offsets_F1.diff()


def positions_above(z_NF: Tensor, threshold: float) -> Tensor:
    """Flat int64 positions of the entries of `z_NF` greater than `threshold` (>= 0), ascending.

    On CPUs the comparison of bfloat16 runs on the raw bits as int16: positive floats order like their bits, negative ones are
    negative integers. With NumPy's `flatnonzero` that is ten times faster than torch's `(z > t).nonzero()`.
    """
    flat = z_NF.reshape(-1)
    if flat.device.type != "cpu":
        return (flat > threshold).nonzero().squeeze(1)
    if flat.dtype == torch.bfloat16:
        # Rounding the threshold down gives a superset; the exact comparison follows on the few survivors.
        bits = int(torch.tensor(threshold, dtype=torch.float32).view(torch.int32)) >> 16
        position_P = torch.from_numpy(np.flatnonzero(flat.view(torch.int16).numpy() >= max(bits, 1)))
        return position_P[flat[position_P].float() > threshold]
    return torch.from_numpy(np.flatnonzero(flat.numpy() > threshold))


def n_positive(z_NF: Tensor) -> int:
    """How many entries are greater than 0; CPU only, on the raw bits in bfloat16 (see `positions_above`)."""
    return int(np.count_nonzero((z_NF.view(torch.int16) if z_NF.dtype == torch.bfloat16 else z_NF).numpy() > 0))


def positions_above_rows(z_NF: Tensor, threshold_N: Tensor) -> Tensor:
    """Flat int64 positions of the entries at least as large as their row's `threshold_N` (> 0), ascending; CPU only.

    In bfloat16 the comparison runs on the raw bits, with thresholds rounded towards zero (see `positions_above`).
    """
    if z_NF.dtype == torch.bfloat16:
        z_NF, threshold_N = z_NF.view(torch.int16), threshold_N.float().view(torch.int32) >> 16
        threshold_N = threshold_N.clamp(min=1).to(torch.int16)
    n_features = z_NF.shape[1]
    rows = max(1, SCANNED_AT_ONCE // n_features)
    found = [
        np.flatnonzero((z_NF[first : first + rows] >= threshold_N[first : first + rows, None]).numpy()) + first * n_features
        for first in range(0, len(z_NF), rows)
    ]
    return torch.from_numpy(np.concatenate(found))


def pairs_from(position_P: Tensor, value_P: Tensor, n_tokens: int, n_features: int) -> Pairs:
    """Pairs from ascending flat positions into a matrix of n_tokens x n_features, and the values there."""
    token_P = torch.div(position_P, n_features, rounding_mode="floor").int()
    feature_P = (position_P - token_P.long() * n_features).int()
    return Pairs(_offsets(token_P, n_tokens), token_P, feature_P, value_P)


def pairs_at(z_NF: Tensor, position_P: Tensor) -> Pairs:
    """Pairs from ascending flat positions into `z_NF`; values in the dtype of `z_NF`."""
    return pairs_from(position_P, z_NF.reshape(-1)[position_P], *z_NF.shape)


def by_feature(pairs: Pairs, n_features: int) -> ByFeature:
    """Sort pairs by feature, within a feature by token (the sort is stable, so sums always run in the same order)."""
    feature_P = pairs.feature_P
    if gpu.on_gpu(feature_P):
        feature_P = torch.where(pairs.value_P != 0, feature_P, n_features)  # places without a pair come after all features
    feature_P, order_P = torch.sort(feature_P, stable=True)
    return ByFeature(_offsets(feature_P, n_features), order_P, pairs.token_P[order_P])


def decode(pairs: Pairs, W_dec_FD: Tensor) -> Tensor:
    """Sum of value x decoder row over the active features of each token, N x D, in the decoder's dtype (GPU: float32)."""
    return _sum_rows(W_dec_FD, pairs.feature_P, pairs.offsets_N1, pairs.value_P)


def pair_products(pairs: Pairs, g_ND: Tensor, W_dec_FD: Tensor) -> Tensor:
    """g[token] . W_dec[feature] for each pair, P: the gradient of the values when g_ND is that of the reconstruction."""
    if gpu.on_gpu(g_ND):
        return gpu.pair_products(pairs, g_ND, W_dec_FD)
    if g_ND.device.type != "cpu":
        return (g_ND[pairs.token_P.long()] * W_dec_FD[pairs.feature_P.long()]).sum(1)
    # The backward of embedding_bag to its per-sample weights is this very product, without the two gathered P x D arrays.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        g_ND, W_dec_FD, pairs.feature_P, pairs.offsets_N1, pairs.token_P, 0
    )


def sum_by_feature(grouped: ByFeature, value_P: Tensor, rows_ND: Tensor) -> Tensor:
    """Sum over the tokens of each feature of value x row of that token, F x D, in the dtype of `rows_ND` (GPU: float32)."""
    return _sum_rows(rows_ND, grouped.token_P, grouped.offsets_F1, value_P[grouped.order_P])


def totals_by_feature(grouped: ByFeature, value_P: Tensor) -> Tensor:
    """Sum of the values of each feature, F, float32, always added in the same order."""
    if gpu.on_gpu(value_P):
        return gpu.sum_segments(value_P[grouped.order_P], grouped.offsets_F1)
    column_P1 = value_P[grouped.order_P].float().unsqueeze(1)
    position_P = torch.arange(len(value_P), dtype=torch.int32, device=value_P.device)
    return _sum_rows(column_P1, position_P, grouped.offsets_F1, torch.ones_like(column_P1[:, 0])).squeeze(1)


def _sum_rows(table_RD: Tensor, index_P: Tensor, offsets: Tensor, weight_P: Tensor) -> Tensor:
    if gpu.on_gpu(table_RD):
        return gpu.sum_rows(table_RD, index_P, offsets, weight_P)
    return functional.embedding_bag(
        index_P, table_RD, offsets, mode="sum", per_sample_weights=weight_P.to(table_RD.dtype), include_last_offset=True
    )


def _offsets(sorted_P: Tensor, n: int) -> Tensor:
    edges = torch.arange(n + 1, dtype=sorted_P.dtype, device=sorted_P.device)
    return torch.searchsorted(sorted_P, edges).int()
