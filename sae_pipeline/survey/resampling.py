"""Bootstrap intervals of whatever is counted over items that are independent of each other: documents, features, words.

Shapes: I items, S resamples.
"""

from collections.abc import Callable

import numpy as np

N_RESAMPLES = 1000


def bootstrap(statistic: Callable[[np.ndarray], float], n_items: int, seed: int) -> tuple[float | None, float | None]:
    """95 % interval of `statistic`, which gets the indices of the drawn items (with repeats). (None, None) for fewer than two.

    Resamples whose statistic is not a number (a fit that has nothing to fit) are left out.
    """
    if n_items < 2:
        return None, None
    random = np.random.default_rng([seed, n_items])
    values_S = np.array([statistic(random.integers(0, n_items, n_items)) for _ in range(N_RESAMPLES)], dtype=np.float64)
    values_S = values_S[np.isfinite(values_S)]
    if not len(values_S):
        return None, None
    low, high = np.percentile(values_S, [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values_I: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    """95 % interval of the mean over items."""
    return bootstrap(lambda drawn: float(values_I[drawn].mean()), len(values_I), seed)


def ratio_interval(sums_I: np.ndarray, counts_I: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    """95 % interval of sum / count, where items bring several values each: documents with their tokens."""
    return bootstrap(lambda drawn: float(sums_I[drawn].sum() / max(counts_I[drawn].sum(), 1)), len(sums_I), seed)
