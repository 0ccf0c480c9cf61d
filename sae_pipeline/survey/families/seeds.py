"""What recurs when the same SAE is trained from another seed, and what of that is chance.

Shapes: F features, D width.
"""

import numpy as np

from sae_pipeline.survey.neighbours import nearest_features


def nearest(query_FD: np.ndarray, row_FD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nearest row of every query, its cosine) of unit rows."""
    found = [(neighbour[:, 0], cosine[:, 0]) for _, neighbour, cosine in nearest_features(query_FD, row_FD, 1)]
    neighbours, cosines = zip(*found, strict=True)
    return np.concatenate(neighbours), np.concatenate(cosines)


def mutual(first_FD: np.ndarray, second_FD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(nearest of the second for every row of the first, its cosine, whether each is the other's nearest)."""
    there_F, cosine_F = nearest(first_FD, second_FD)
    back_F, _ = nearest(second_FD, first_FD)
    return there_F, cosine_F, back_F[there_F] == np.arange(len(first_FD))


def chance_rows(like_FD: np.ndarray, seed: int) -> np.ndarray:
    """Random unit rows with about the second moments of `like_FD`: crowded along its main directions, and otherwise nothing."""
    moment_DD = like_FD.T.astype(np.float64) @ like_FD / len(like_FD)
    value_D, vector_DD = np.linalg.eigh(moment_DD)
    draw_FD = np.random.default_rng([seed, 82]).normal(size=like_FD.shape)
    rows_FD = (draw_FD * np.sqrt(value_D.clip(0))) @ vector_DD.T
    return (rows_FD / np.linalg.norm(rows_FD, axis=1, keepdims=True)).astype(np.float32)
