"""A classifier over k units, chosen and fitted on the texts that are searched with, scored on the held-out ones (row 58)."""

import numpy as np

from sae_pipeline.survey.search.families import Searched, dense_probe
from sae_pipeline.survey.search.methods import separation

KS = (1, 5)


def accuracies(searched: Searched, k: int, seed: int) -> tuple[float, float, float]:
    """Held-out accuracy of k features, of k random directions chosen the same way, and of the dense probe."""
    held_out_I = searched.concept.held_out_I
    positive_I, truth_I = searched.concept.positive_I[~held_out_I], searched.held_out_positive_I
    arms = (searched.feature_IF, searched.direction_IF)
    few = [k_sparse_accuracy(x[~held_out_I], positive_I, x[held_out_I], truth_I, k, seed) for x in arms]
    probe = dense_probe(searched.mean_ID[~held_out_I], positive_I, seed)
    return few[0], few[1], float((probe.predict(searched.mean_ID[held_out_I]) == truth_I).mean())


def k_sparse_accuracy(
    x_IF: np.ndarray, positive_I: np.ndarray, test_IF: np.ndarray, truth_I: np.ndarray, k: int, seed: int
) -> float:
    """Logistic regression on the k units of largest separation in the training texts."""
    chosen = np.argsort(-np.abs(separation(x_IF, positive_I)), kind="stable")[:k]
    return fitted_accuracy(x_IF[:, chosen], positive_I, test_IF[:, chosen], truth_I, seed)


def fitted_accuracy(x_IK: np.ndarray, positive_I: np.ndarray, test_IK: np.ndarray, truth_I: np.ndarray, seed: int) -> float:
    """Accuracy of a logistic regression on columns scaled by their largest training value."""
    from sklearn.linear_model import LogisticRegression

    scale_K = np.maximum(np.abs(x_IK).max(0), 1e-6)
    model = LogisticRegression(C=10.0, max_iter=500, random_state=seed).fit(x_IK / scale_K, positive_I)
    return float((model.predict(test_IK / scale_K) == truth_I).mean())
