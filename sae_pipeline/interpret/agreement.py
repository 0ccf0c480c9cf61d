"""Agreement of two raters on an ordered scale."""

import numpy as np


def weighted_kappa(first: np.ndarray, second: np.ndarray, n_levels: int = 4) -> float | None:
    """Cohen's kappa with quadratic weights: 1 perfect, 0 what chance gives. None when both raters use one and the same level.

    `first`, `second`: levels 0 .. n_levels - 1 of the same items.
    """
    if not len(first):
        return None
    observed = np.zeros((n_levels, n_levels))
    np.add.at(observed, (first, second), 1)
    observed /= observed.sum()
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0))
    level = np.arange(n_levels)
    weight = (level[:, None] - level[None, :]) ** 2
    by_chance = float((weight * expected).sum())
    return 1 - float((weight * observed).sum()) / by_chance if by_chance else None


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's correlation, ties at their mean rank. None when one of the two does not vary."""
    a, b = _ranks(first), _ranks(second)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return ((last - count + 1 + last) / 2)[inverse]
