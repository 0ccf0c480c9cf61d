"""Nearest features by decoder cosine, within a size and across sizes (paper, 'Feature neighborhoods'), by exact search.

numpy, not torch: pages that ask for a single feature's neighbours must not wait for torch to be imported.
Shapes: F features, Q queries, D width, K neighbours, G groups of rows, M rows of a group.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open

from sae_pipeline.errors import UserError

QUERIES_AT_ONCE = 512  # cosines of so many features with all others are in memory at once: 134 MB for 65,536 features
GROUP = 64
ROWS_AT_ONCE = 16_384


def decoder_rows(folder: Path) -> np.ndarray:
    """Unit decoder rows F x D of the SAE in `folder`, float32. A row of zeros stays one."""
    with safe_open(_weights(folder), framework="np") as file:
        return _unit(file.get_tensor("W_dec_FD"))


def decoder_row(folder: Path, feature: int) -> np.ndarray:
    """The unit decoder row of one feature, D values, float32."""
    with safe_open(_weights(folder), framework="np") as file:
        return _unit(file.get_slice("W_dec_FD")[feature : feature + 1])[0]


def nearest_to(folder: Path, direction_D: np.ndarray, n: int, without: int | None = None) -> list[tuple[int, float]]:
    """The `n` features of the SAE in `folder` closest to a unit direction: [(feature, cosine)], `without` one of them.

    Reads the decoder a slice at a time and keeps none of it.
    """
    with safe_open(_weights(folder), framework="np") as file:
        rows_FD = file.get_slice("W_dec_FD")
        n_features = rows_FD.get_shape()[0]
        starts = range(0, n_features, ROWS_AT_ONCE)
        # Published rows are unit vectors: for a single direction, dividing by their norms would read everything once more.
        cosine_F = np.concatenate([rows_FD[start : min(start + ROWS_AT_ONCE, n_features)] @ direction_D for start in starts])
    if without is not None:
        cosine_F[without] = -np.inf
    neighbour_1K, cosine_1K = _largest(cosine_F[None], min(n, n_features - (without is not None)))
    return [(int(feature), float(cosine)) for feature, cosine in zip(neighbour_1K[0], cosine_1K[0], strict=True)]


def nearest_features(
    queries_QD: np.ndarray, rows_FD: np.ndarray, n: int, same: bool = False
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Exact nearest rows of every query, block by block: (first query, neighbours Q x K int32, cosines Q x K float32).

    K is `n`, or as many rows as there are. `same`: queries and rows are the same features, and none is its own neighbour.
    Nothing of size queries x rows is ever kept. Ties go to the lower index within what was found.
    """
    n_rows, pad = len(rows_FD), -len(rows_FD) % GROUP
    k = min(n, n_rows - same)
    cosine_QF = np.full((min(QUERIES_AT_ONCE, len(queries_QD)), n_rows + pad), -np.inf, np.float32)
    for start in range(0, len(queries_QD), QUERIES_AT_ONCE):
        block_QD = queries_QD[start : start + QUERIES_AT_ONCE]
        found_QF = cosine_QF[: len(block_QD)]
        np.matmul(block_QD, rows_FD.T, out=found_QF[:, :n_rows])
        if same:
            found_QF[np.arange(len(block_QD)), start + np.arange(len(block_QD))] = -np.inf
        neighbour_QK, nearest_QK = _largest(found_QF, k)
        yield start, neighbour_QK.astype(np.int32), nearest_QK


def _largest(values_QF: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of every row, largest first: (places, values).

    The k largest values lie in the k groups with the largest maxima: one fast pass finds these, and only they are sorted.
    """
    n_queries, width = values_QF.shape
    if k == 0:
        return np.empty((n_queries, 0), np.int64), np.empty((n_queries, 0), values_QF.dtype)
    if width % GROUP or width // GROUP <= k:
        place_QK = np.argpartition(-values_QF, k - 1, axis=1)[:, :k]
    else:
        grouped_QGM = values_QF.reshape(n_queries, -1, GROUP)
        group_QK = np.argpartition(-grouped_QGM.max(axis=2), k - 1, axis=1)[:, :k]
        candidate_QC = np.take_along_axis(grouped_QGM, group_QK[:, :, None], axis=1).reshape(n_queries, -1)
        at_QK = np.argpartition(-candidate_QC, k - 1, axis=1)[:, :k]
        place_QK = np.take_along_axis(group_QK, at_QK // GROUP, axis=1) * GROUP + at_QK % GROUP
    place_QK = np.sort(place_QK, axis=1)
    value_QK = np.take_along_axis(values_QF, place_QK, axis=1)
    order_QK = np.argsort(-value_QK, axis=1, kind="stable")
    return np.take_along_axis(place_QK, order_QK, axis=1), np.take_along_axis(value_QK, order_QK, axis=1)


def _unit(rows_FD: np.ndarray) -> np.ndarray:
    rows_FD = rows_FD.astype(np.float32, copy=False)
    return rows_FD / np.maximum(np.linalg.norm(rows_FD, axis=1, keepdims=True), 1e-12)


def _weights(folder: Path) -> Path:
    path = folder / "weights.safetensors"
    if not path.is_file():
        raise UserError(str(path), "is not there", "Run `sae-pipeline run`; tables alone have no decoder.")
    return path
