"""Power laws and optima: what is fitted to the runs of a sweep, without any training or file.

Compute is 12 D F floating-point operations per token: two dense products of 2 D F each forward, twice that backward. It is a
convention in which features and steps trade one for one (as in the paper); sparse kernels do less.

Shapes: B budgets.
"""

from dataclasses import dataclass

import numpy as np

FLOPS_PER_WEIGHT = 12


def flops(d_model: int, n_features: int, n_tokens: int) -> float:
    """Compute of one training."""
    return float(FLOPS_PER_WEIGHT) * d_model * n_features * n_tokens


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient x^exponent, fitted by least squares in logarithms; `r_squared` there, not a number through two points."""

    coefficient: float
    exponent: float
    r_squared: float

    def at(self, x: float) -> float:
        """The law's value."""
        return self.coefficient * x**self.exponent


def power_law(x_B: np.ndarray, y_B: np.ndarray) -> PowerLaw:
    """Fit to positive values. Raises `ValueError` for fewer than two different x."""
    n_different = len(np.unique(x_B))
    if n_different < 2:
        raise ValueError("a power law needs two different values of x")
    log_x_B, log_y_B = np.log(x_B), np.log(y_B)
    exponent, offset = np.polyfit(log_x_B, log_y_B, 1)
    rest = float(((log_y_B - exponent * log_x_B - offset) ** 2).sum())
    total = float(((log_y_B - log_y_B.mean()) ** 2).sum())
    # A line through two points fits by construction.
    r_squared = float("nan") if n_different == 2 else 1 - rest / total if total > 0 else 1.0
    return PowerLaw(float(np.exp(offset)), float(exponent), r_squared)


def minimum(x: np.ndarray, loss: np.ndarray) -> tuple[float, bool]:
    """(where the loss is least, whether that lies inside the range) by a parabola through logarithms of both.

    The parabola goes through the best point and its neighbours; at the edge of the range there is only the best point.
    """
    order = np.argsort(x)
    log_x, log_loss = np.log(x[order]), np.log(loss[order])
    best = int(np.argmin(log_loss))
    if best in (0, len(x) - 1):
        return float(np.exp(log_x[best])), False
    near = slice(best - 1, best + 2)
    second, first, _ = np.polyfit(log_x[near], log_loss[near], 2)
    place = -first / (2 * second) if second > 0 else log_x[best]
    return float(np.exp(np.clip(place, log_x[best - 1], log_x[best + 1]))), True
