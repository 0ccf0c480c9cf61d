"""Mean, standard deviation and scale over unmasked training tokens, streamed in float64 and mergeable.

Shapes: N tokens, D model width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums that merge by addition. |r|^2 sums follow from `square_D`."""

    n: int
    sum_D: Tensor  # float64
    square_D: Tensor  # float64: sum of r^2 about `origin_D`
    origin_D: Tensor  # float64: subtracted before summing, so that the variance does not cancel

    @classmethod
    def empty(cls, origin_D: Tensor) -> "Moments":
        """No tokens yet; `origin_D` any point near the mean."""
        zero_D = torch.zeros_like(origin_D, dtype=torch.float64)
        return cls(0, zero_D, zero_D.clone(), origin_D.double())

    def add(self, r_ND: Tensor) -> "Moments":
        """With these tokens too."""
        away_ND = r_ND.double() - self.origin_D
        return Moments(self.n + len(r_ND), self.sum_D + away_ND.sum(0), self.square_D + away_ND.square().sum(0), self.origin_D)

    @property
    def mean_D(self) -> Tensor:
        """Mean activation."""
        return self.origin_D + self.sum_D / self.n

    @property
    def std_D(self) -> Tensor:
        """Standard deviation of every dimension."""
        return (self.square_D / self.n - (self.sum_D / self.n).square()).clamp(min=0).sqrt()

    @property
    def total_variance(self) -> float:
        """E|r - mean|^2."""
        return float(self.std_D.square().sum())

    @property
    def mean_square_norm(self) -> float:
        """E|r|^2."""
        return self.total_variance + float(self.mean_D.square().sum())

    def scale(self, center: bool) -> float:
        """s, such that E|s (r - mu)|^2 = D (mu = 0 unless `center`)."""
        return math.sqrt(len(self.sum_D) / (self.total_variance if center else self.mean_square_norm))

    @property
    def mean_share(self) -> float:
        """m = |mu|^2 / E|r|^2, the share of the squared norm that centring removes."""
        return float(self.mean_D.square().sum()) / self.mean_square_norm
