"""Where features lie on the map: UMAP of decoder directions over all sizes together (paper, 'Feature neighborhoods').

UMAP is for display only; whatever is said about neighbours is said by the cosines.
Shapes: F features of all sizes, D width, K neighbours.
"""

import warnings

import numpy as np


def project(directions_FD: np.ndarray, neighbour_FK: np.ndarray, cosine_FK: np.ndarray, min_dist: float, seed: int) -> np.ndarray:
    """Coordinates F x 2, float32, from exact cosine neighbours (the feature itself not among them).

    Few features (too few for a neighbour graph) are laid out on a circle. With a seed UMAP computes in one thread: the same
    directions give the same map on the same machine.
    """
    n_features = len(directions_FD)
    if n_features <= 4 or neighbour_FK.shape[1] < 2:
        angle_F = 2 * np.pi * np.arange(n_features) / max(n_features, 1)
        return np.stack([np.cos(angle_F), np.sin(angle_F)], axis=1).astype(np.float32)
    with warnings.catch_warnings():
        # umap warns that a seed means one thread and that given neighbours cannot place new points: both are meant.
        warnings.filterwarnings("ignore", category=UserWarning)
        import umap
        from threadpoolctl import ThreadpoolController

        own_F1 = np.arange(n_features, dtype=np.int32)[:, None]
        distance_FK = np.clip(1 - cosine_FK, 0, None).astype(np.float32)
        known = (
            np.concatenate([own_F1, neighbour_FK], axis=1),  # umap counts a point as its own first neighbour
            np.concatenate([np.zeros_like(own_F1, dtype=np.float32), distance_FK], axis=1),
            None,
        )
        reducer = umap.UMAP(
            n_neighbors=known[0].shape[1], metric="cosine", min_dist=min_dist, random_state=seed, precomputed_knn=known,
            n_jobs=1,
        )  # fmt: skip
        # Compiled code under umap sets the OpenMP threads of the whole process: torch would then add up in another order.
        with ThreadpoolController().limit(limits=1):
            return np.asarray(reducer.fit_transform(directions_FD), dtype=np.float32)
