"""The paper's law: whether a concept has a feature is a sigmoid of its log frequency, half at about 1 / (alive features).

Shapes: C concepts.
"""

import numpy as np

RIDGE = 1e-2  # on the slope: a bound for samples that a threshold separates perfectly
N_STEPS = 60


def fit_sigmoid(log_frequency_C: np.ndarray, present_C: np.ndarray) -> tuple[float, float]:
    """(log10 of the frequency at one half, slope per decade) by logistic regression.

    Not a number without both outcomes, or when presence falls with frequency.
    """
    y = present_C.astype(np.float64)
    if len(y) == 0 or y.min() == y.max():
        return float("nan"), float("nan")
    centre = log_frequency_C.mean()
    x = np.stack([np.ones_like(y), log_frequency_C - centre], axis=1)
    weight = np.zeros(2)
    for _ in range(N_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weight, -30, 30)))
        gradient = x.T @ (y - p) - np.array([0.0, RIDGE * weight[1]])
        hessian = (x * np.maximum(p * (1 - p), 1e-9)[:, None]).T @ x + np.diag([1e-9, RIDGE])
        step = np.linalg.solve(hessian, gradient)
        weight += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    if weight[1] <= 0:
        return float("nan"), float("nan")
    return float(centre - weight[0] / weight[1]), float(weight[1])


def predicted(log_frequency_C: np.ndarray, half: float, slope: float) -> np.ndarray:
    """Probability of presence."""
    return 1 / (1 + np.exp(-np.clip(slope * (log_frequency_C - half), -30, 30)))
