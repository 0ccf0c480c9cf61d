"""The entries of the tokens x features matrix that a step works on, stored sparsely or densely behind one interface.

An architecture writes its losses and gradients once, in terms of these operations; whether the sparse or the dense form computes
them is decided by density alone, and both give the same sums.

Shapes: N tokens, F features, D width, P pairs. `value` is P (sparse) or N x F (dense), written `_E` for entries.
"""

from typing import Protocol

import torch
from torch import Tensor

from sae_pipeline.sae import gpu, kernels
from sae_pipeline.sae.kernels import ByFeature, Pairs


class Entries(Protocol):
    """What both forms offer. Unit decoder rows V_FD are those of the step, in the dtype of its products."""

    z_E: Tensor
    """Pre-activations of the entries in published units (less the architecture's shift), in the dtype of the products."""

    def at(self, value_F: Tensor) -> Tensor:
        """A number per feature, for each entry (or in a shape that broadcasts to the entries)."""
        ...

    def decode(self, value_E: Tensor) -> Tensor:
        """Sum of value x V[feature] over the entries of each token, N x D float32."""
        ...

    def products(self, g_ND: Tensor) -> Tensor:
        """g[token] . V[feature] for each entry, float32 where entries are few."""
        ...

    def total(self, value_E: Tensor) -> Tensor:
        """Sum of the values of each feature, F float32."""
        ...

    def rows(self, value_E: Tensor, rows_ND: Tensor) -> Tensor:
        """Sum over tokens of value x row of the token for each feature, F x D."""
        ...

    def count(self, active_E: Tensor | None) -> Tensor:
        """Tokens on which each feature is active, F integers; None: all stored entries are."""
        ...

    def part(self, first: int, last: int) -> "Entries":
        """The entries of features first <= i < last."""
        ...


class SparseEntries:
    """Active pairs. Sums always run in the same order."""

    def __init__(self, pairs: Pairs, V_FD: Tensor) -> None:
        self.pairs, self._V_FD, self.z_E = pairs, V_FD, pairs.value_P
        self._index_P: Tensor | None = None
        self._grouped: ByFeature | None = None

    @property
    def _by_feature(self) -> ByFeature:
        if self._grouped is None:
            self._grouped = kernels.by_feature(self.pairs, len(self._V_FD))
        return self._grouped

    def at(self, value_F: Tensor) -> Tensor:
        """See `Entries`."""
        if self._index_P is None:
            self._index_P = self.pairs.feature_P.long()
        return value_F[self._index_P]

    def decode(self, value_E: Tensor) -> Tensor:
        """See `Entries`."""
        p = self.pairs
        return kernels.decode(Pairs(p.offsets_N1, p.token_P, p.feature_P, value_E), self._V_FD).float()

    def products(self, g_ND: Tensor) -> Tensor:
        """See `Entries`."""
        return kernels.pair_products(self.pairs, g_ND, self._V_FD).float()

    def total(self, value_E: Tensor) -> Tensor:
        """See `Entries`."""
        return kernels.totals_by_feature(self._by_feature, value_E)

    def rows(self, value_E: Tensor, rows_ND: Tensor) -> Tensor:
        """See `Entries`."""
        return kernels.sum_by_feature(self._by_feature, value_E, rows_ND)

    def count(self, active_E: Tensor | None) -> Tensor:
        """See `Entries`."""
        if active_E is None:
            return self._by_feature.count_F
        if gpu.on_gpu(active_E):
            return self.total(active_E)
        return torch.bincount(self.pairs.feature_P[active_E], minlength=len(self._V_FD))

    def part(self, first: int, last: int) -> "SparseEntries":
        """See `Entries`."""
        p = self.pairs
        if gpu.on_gpu(p.feature_P):
            return self._part_in_place(first, last)
        keep_P = (p.feature_P >= first) & (p.feature_P < last)
        chosen = p.subset(keep_P, p.value_P)
        moved = Pairs(chosen.offsets_N1, chosen.token_P, chosen.feature_P - first, chosen.value_P)
        return SparseEntries(moved, self._V_FD[first:last])

    def _part_in_place(self, first: int, last: int) -> "SparseEntries":
        """Others' places count as empty; the order by feature is a piece of the order of all."""
        p, grouped = self.pairs, self._by_feature
        inside_P = (p.feature_P >= first) & (p.feature_P < last)
        feature_P = torch.where(inside_P, p.feature_P - first, 0)
        part = SparseEntries(Pairs(p.offsets_N1, p.token_P, feature_P, p.value_P * inside_P), self._V_FD[first:last])
        part._grouped = ByFeature(grouped.offsets_F1[first : last + 1], grouped.order_P, grouped.token_P)
        return part


class DenseEntries:
    """All entries of the matrix; those that an architecture did not choose are 0."""

    def __init__(self, z_NF: Tensor, V_FD: Tensor) -> None:
        self.z_E, self._V_FD = z_NF, V_FD

    @classmethod
    def of_pairs(cls, pairs: Pairs, V_FD: Tensor) -> "DenseEntries":
        """Chosen pairs in a matrix of zeros."""
        z_NF = torch.zeros(pairs.n_tokens, len(V_FD), dtype=pairs.value_P.dtype, device=V_FD.device)
        if gpu.on_gpu(z_NF):
            # Empty places add 0 to the first entry.
            z_NF.view(-1).scatter_add_(0, pairs.token_P.long() * len(V_FD) + pairs.feature_P, pairs.value_P)
        else:
            z_NF[pairs.token_P.long(), pairs.feature_P.long()] = pairs.value_P
        return cls(z_NF, V_FD)

    def at(self, value_F: Tensor) -> Tensor:
        """See `Entries`."""
        return value_F

    def decode(self, value_E: Tensor) -> Tensor:
        """See `Entries`."""
        return (value_E.to(self._V_FD.dtype) @ self._V_FD).float()

    def products(self, g_ND: Tensor) -> Tensor:
        """See `Entries`; in the dtype of the products."""
        return g_ND @ self._V_FD.T

    def total(self, value_E: Tensor) -> Tensor:
        """See `Entries`."""
        return value_E.sum(0, dtype=torch.float32)

    def rows(self, value_E: Tensor, rows_ND: Tensor) -> Tensor:
        """See `Entries`."""
        return value_E.to(rows_ND.dtype).T @ rows_ND

    def count(self, active_E: Tensor | None) -> Tensor:
        """See `Entries`."""
        return (self.z_E != 0 if active_E is None else active_E).sum(0)

    def part(self, first: int, last: int) -> "DenseEntries":
        """See `Entries`."""
        return DenseEntries(self.z_E[:, first:last], self._V_FD[first:last])
