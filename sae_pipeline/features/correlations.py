"""Pearson correlations of sparse features with dense units (neurons, residual dimensions), from sums of one pass.

Paper, 'Features vs. neurons': the correlation of a feature with every neuron of the layers before it, and the best of them.
The sums of two passes add up to those of both, so shards and processes may each keep their own. Used by the statistics pass
(`strongest_units`) and, with the model running, by the survey's `features_vs_neurons`.

Shapes: N tokens of a batch, F features, M units, U features active in a batch, Z active (feature, token) pairs of a batch,
K units kept.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

ROWS_AT_ONCE = 512  # widened to float64: what a cache holds; a wider array is fresh memory each time, ten times as slow


@dataclass
class Correlations:
    """Sums over tokens of f, f², u, u² and f u, in float64; u is a unit's activation minus `shift_M`.

    Memory: 8 F M bytes. Where all units of a model are too many, hold the features (or the units) a block at a time.
    """

    n_tokens: int
    shift_M: Tensor
    """Near the units' means, so that nothing is lost when large means are subtracted; any value is right."""
    f_F: Tensor
    f2_F: Tensor
    u_M: Tensor
    u2_M: Tensor
    fu_FM: Tensor

    @classmethod
    def empty(cls, n_features: int, shift_M: Tensor) -> "Correlations":
        """Nothing seen yet. `shift_M`: about the mean of every unit (its length says how many units there are)."""
        n_units, device = len(shift_M), shift_M.device
        f_F, u_M = (torch.zeros(n, dtype=torch.float64, device=device) for n in (n_features, n_units))
        fu_FM = torch.zeros(n_features, n_units, dtype=torch.float64, device=device)
        return cls(0, shift_M.float(), f_F, f_F.clone(), u_M, u_M.clone(), fu_FM)

    def add(self, feature_Z: Tensor, row_Z: Tensor, value_Z: Tensor, units_NM: Tensor) -> None:
        """Count N tokens: what the units are on all of them, and the pairs (in any order) in which a feature is active.

        `row_Z` says which row of `units_NM` a pair belongs to. Tokens without any pair count too. Products are summed in float32
        within the batch and in float64 over batches.
        """
        u_NM = units_NM.float() - self.shift_M
        feature_Z, order_Z = torch.sort(feature_Z.long(), stable=True)
        row_Z, value_Z = row_Z[order_Z].long(), value_Z[order_Z].float()
        self.n_tokens += len(u_NM)
        self.f_F.index_add_(0, feature_Z, value_Z.double())
        self.f2_F.index_add_(0, feature_Z, value_Z.double().square())
        for part_NM in u_NM.split(ROWS_AT_ONCE):
            wide_NM = part_NM.double()
            self.u_M += wide_NM.sum(0)
            self.u2_M += wide_NM.square_().sum(0)
        if len(feature_Z):
            feature_U, count_U = torch.unique_consecutive(feature_Z, return_counts=True)
            sums_UM = functional.embedding_bag(
                row_Z, u_NM, count_U.cumsum(0) - count_U, mode="sum", per_sample_weights=value_Z
            )  # gathers and sums rows without making the Z x M array
            for part_U, part_UM in zip(feature_U.split(ROWS_AT_ONCE), sums_UM.split(ROWS_AT_ONCE), strict=True):
                self.fu_FM.index_add_(0, part_U, part_UM.double())

    def merge(self, other: "Correlations") -> "Correlations":
        """The sums over the tokens of both. `ValueError` when they were shifted differently."""
        if not torch.equal(self.shift_M, other.shift_M):
            raise ValueError("correlations with different shifts cannot be merged: begin all parts with the same shift_M")
        names = ("f_F", "f2_F", "u_M", "u2_M", "fu_FM")
        sums = (getattr(self, name) + getattr(other, name) for name in names)
        return Correlations(self.n_tokens + other.n_tokens, self.shift_M, *sums)

    def pearson(self, first: int = 0, last: int | None = None) -> Tensor:
        """r of the features first .. last - 1 with every unit, float64; 0 where either never varies."""
        column = (slice(first, last), None)
        return self._r(self.f_F[column], self.f2_F[column], self.u_M, self.u2_M, self.fu_FM[first:last])

    def best(self, n: int = 1, features_at_once: int = 1024, units: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """(units F x K int64, their r F x K float64): the `n` of `units` with the largest |r| of each feature, largest first."""
        found, values = [], []
        among = torch.arange(len(self.shift_M), device=self.shift_M.device)[units]
        for first in range(0, len(self.f_F), features_at_once):
            r_FM = self.pearson(first, first + features_at_once)[:, units]
            column_FK = r_FM.abs().topk(min(n, r_FM.shape[1]), dim=1).indices
            found.append(among[column_FK])
            values.append(r_FM.gather(1, column_FK))
        return torch.cat(found), torch.cat(values)

    def of(self, unit_F: Tensor) -> Tensor:
        """r of every feature with one given unit each, F float64."""
        fu_F = self.fu_FM.gather(1, unit_F[:, None])[:, 0]
        return self._r(self.f_F, self.f2_F, self.u_M[unit_F], self.u2_M[unit_F], fu_F)

    def _r(self, f: Tensor, f2: Tensor, u: Tensor, u2: Tensor, fu: Tensor) -> Tensor:
        n = max(self.n_tokens, 1)
        covariance, spread_f, spread_u = fu - f * (u / n), f2 - f.square() / n, u2 - u.square() / n
        product = spread_f.clamp(min=0).sqrt() * spread_u.clamp(min=0).sqrt()
        return torch.where(product > 0, covariance / product, 0).clamp(-1, 1)
