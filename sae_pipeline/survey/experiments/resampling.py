"""Bootstrap over documents (or features, or runs): the same draws for a value and for its control, so that differences pair.

Shapes: R resamples, K items.
"""

import numpy as np

N_RESAMPLES = 2000


def draws(n_items: int, seed: int, n_resamples: int = N_RESAMPLES) -> np.ndarray:
    """How often each item is in each resample, R x K."""
    weight_RK = np.random.default_rng([seed, 77]).multinomial(n_items, np.full(n_items, 1 / n_items), n_resamples)
    return weight_RK.astype(np.float64)


def interval(value_R: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval, of the resamples in which the value exists; (nan, nan) when it exists in none."""
    known = value_R[np.isfinite(value_R)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def mean_and_interval(value_K: np.ndarray, seed: int) -> tuple[float, float, float]:
    """(mean, low, high) over items."""
    weight_RK = draws(len(value_K), seed)
    return float(np.mean(value_K)), *interval(weight_RK @ value_K / len(value_K))
