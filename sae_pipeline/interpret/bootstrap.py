"""Bootstrap intervals by unit: windows of one unit are not independent, units are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

N_RESAMPLES = 2000
N_RESAMPLES_OF_MEANS = 1000  # one for each row of a table
AT_ONCE = 2_000_000  # drawn indices held in memory


def paired_difference(
    matched: np.ndarray, shuffled: np.ndarray, unit: np.ndarray, seed: int, confidence: float = 0.95
) -> tuple[float, float, float, int]:
    """Mean of matched - shuffled over windows, low, high, number of units. Units are resampled with all their windows.

    `matched`, `shuffled`, `unit`: one entry per window. Raises `ValueError` for no windows.
    """
    if not len(unit):
        raise ValueError("no windows to compare")
    difference = matched.astype(np.float64) - shuffled
    _, index = np.unique(unit, return_inverse=True)
    n_units = int(index.max()) + 1
    sums, counts = np.bincount(index, weights=difference), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, n_units, (N_RESAMPLES, n_units))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(difference.mean()), float(low), float(high), n_units


@dataclass(frozen=True)
class Difference:
    """Two means and their difference, each with its interval."""

    value: float
    value_low: float
    value_high: float
    control: float
    difference: float
    low: float
    high: float


def unpaired_difference(
    value: np.ndarray, control: np.ndarray, seed: int, mean: Callable[..., Any] = np.mean, confidence: float = 0.95
) -> Difference:
    """Mean of `value` beside that of `control`, over different units: both are resampled. One entry per unit.

    `mean` is any statistic that takes an axis. Raises `ValueError` for no units.
    """
    if not len(value) or not len(control):
        raise ValueError("no units to compare")
    rng = np.random.default_rng(seed)
    values = mean(value[rng.integers(0, len(value), (N_RESAMPLES, len(value)))], axis=1)
    controls = mean(control[rng.integers(0, len(control), (N_RESAMPLES, len(control)))], axis=1)
    tails = (100 * (1 - confidence) / 2, 100 * (1 + confidence) / 2)
    value_low, value_high = np.percentile(values, tails)
    low, high = np.percentile(values - controls, tails)
    both = float(mean(value, axis=0)), float(mean(control, axis=0))
    return Difference(both[0], float(value_low), float(value_high), both[1], both[0] - both[1], float(low), float(high))


def bootstrap_mean(value: np.ndarray, seed: int, confidence: float = 0.95) -> tuple[float | None, float | None, float | None]:
    """(mean, low, high) by the percentile bootstrap over the entries; no interval for fewer than two of them."""
    if not len(value):
        return None, None, None
    if len(value) == 1:
        return float(value[0]), None, None
    random = np.random.default_rng([seed, 7])
    step = max(1, AT_ONCE // len(value))
    means = np.concatenate(
        [
            value[random.integers(0, len(value), (min(step, N_RESAMPLES_OF_MEANS - start), len(value)))].mean(axis=1)
            for start in range(0, N_RESAMPLES_OF_MEANS, step)
        ]
    )
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(value.mean()), float(low), float(high)
