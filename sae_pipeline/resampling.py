"""Bootstrap intervals over whatever is independent of each other: documents, features, words, units with all their windows.

Every interval is the central 95 % of the statistic over resamples with replacement. Three ways to draw, by what is resampled:
indices for any statistic (`bootstrap`), weights for sums of which several must share their draws (`draws`), blocks of means
(`bootstrap_mean`, `paired_difference`, `unpaired_difference`).

Shapes: I items, R resamples, K items with weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

N_RESAMPLES = 1000  # of a statistic that is computed anew for each
N_DRAWS = 2000  # where a resample is a row of a product of matrices
N_RESAMPLES_OF_MEANS = 1000  # one for each row of a table
AT_ONCE = 2_000_000  # drawn indices held in memory
CENTRAL = (2.5, 97.5)


def interval(value_R: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval, of the resamples in which the value exists; (nan, nan) when it exists in none."""
    known = value_R[np.isfinite(value_R)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, CENTRAL)
    return float(low), float(high)


def bootstrap(statistic: Callable[[np.ndarray], float], n_items: int, seed: int) -> tuple[float | None, float | None]:
    """95 % interval of `statistic`, which gets the indices of the drawn items (with repeats). (None, None) for fewer than two.

    Resamples whose statistic is not a number (a fit that has nothing to fit) are left out.
    """
    if n_items < 2:
        return None, None
    random = np.random.default_rng([seed, n_items])
    low, high = interval(np.array([statistic(random.integers(0, n_items, n_items)) for _ in range(N_RESAMPLES)], np.float64))
    return (low, high) if np.isfinite(low) else (None, None)


def mean_interval(values_I: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    """95 % interval of the mean over items."""
    return bootstrap(lambda drawn: float(values_I[drawn].mean()), len(values_I), seed)


def draws(n_items: int, seed: int, n_resamples: int = N_DRAWS) -> np.ndarray:
    """How often each item is in each resample, R x K: a value and its control share their draws, so that differences pair."""
    weight_RK = np.random.default_rng([seed, 77]).multinomial(n_items, np.full(n_items, 1 / n_items), n_resamples)
    return weight_RK.astype(np.float64)


def mean_and_interval(value_K: np.ndarray, seed: int) -> tuple[float, float, float]:
    """(mean, low, high) over items, by the draws of `draws`."""
    weight_RK = draws(len(value_K), seed)
    return float(np.mean(value_K)), *interval(weight_RK @ value_K / len(value_K))


def bootstrap_mean(value: np.ndarray, seed: int) -> tuple[float | None, float | None, float | None]:
    """(mean, low, high) over the entries, however many there are; no interval for fewer than two of them."""
    if not len(value):
        return None, None, None
    if len(value) == 1:
        return float(value[0]), None, None
    random = np.random.default_rng([seed, 7])
    step = max(1, AT_ONCE // len(value))
    means = [
        value[random.integers(0, len(value), (min(step, N_RESAMPLES_OF_MEANS - start), len(value)))].mean(axis=1)
        for start in range(0, N_RESAMPLES_OF_MEANS, step)
    ]
    return float(value.mean()), *interval(np.concatenate(means))


def paired_difference(matched: np.ndarray, shuffled: np.ndarray, unit: np.ndarray, seed: int) -> tuple[float, float, float, int]:
    """Mean of matched - shuffled over windows, low, high, number of units. Units are resampled with all their windows.

    `matched`, `shuffled`, `unit`: one entry per window. Raises `ValueError` for no windows.
    """
    if not len(unit):
        raise ValueError("no windows to compare")
    difference = matched.astype(np.float64) - shuffled
    _, index = np.unique(unit, return_inverse=True)
    n_units = int(index.max()) + 1
    sums, counts = np.bincount(index, weights=difference), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, n_units, (N_DRAWS, n_units))
    return float(difference.mean()), *interval(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)), n_units


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


def unpaired_difference(value: np.ndarray, control: np.ndarray, seed: int, mean: Callable[..., Any] = np.mean) -> Difference:
    """Mean of `value` beside that of `control`, over different units: both are resampled. One entry per unit.

    `mean` is any statistic that takes an axis. Raises `ValueError` for no units.
    """
    if not len(value) or not len(control):
        raise ValueError("no units to compare")
    rng = np.random.default_rng(seed)
    values = mean(value[rng.integers(0, len(value), (N_DRAWS, len(value)))], axis=1)
    controls = mean(control[rng.integers(0, len(control), (N_DRAWS, len(control)))], axis=1)
    both = float(mean(value, axis=0)), float(mean(control, axis=0))
    return Difference(both[0], *interval(values), both[1], both[0] - both[1], *interval(values - controls))
