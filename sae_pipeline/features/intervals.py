"""Activation intervals: 10 equal parts of (0, M], M = the unit's training maximum.

Paper, 'Examples and features': examples are sampled from intervals linearly spaced between the maximum and zero.
"""

import numpy as np

from sae_pipeline.tables.columns import N_INTERVALS


def interval_of(value: np.ndarray, maximum: np.ndarray | float) -> np.ndarray:
    """Interval 1..10 of each activation, int8. Held-out values above the training maximum M are in the top one.

    Interval i holds ((i - 1) M / 10, i M / 10]. A unit that was never active in training (M = 0) has only the top one.
    """
    maximum = np.asarray(maximum, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(maximum > 0, np.asarray(value, np.float64) * N_INTERVALS / maximum, N_INTERVALS)
    return np.clip(np.ceil(ratio), 1, N_INTERVALS).astype(np.int8)
