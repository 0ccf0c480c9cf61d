"""Bootstrap intervals by unit: windows of one unit are not independent, units are."""

import numpy as np

N_RESAMPLES = 2000


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
