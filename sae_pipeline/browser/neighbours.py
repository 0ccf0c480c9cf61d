"""Nearest features by decoder cosine, within a size and across sizes (paper, 'Feature neighborhoods'), computed when asked for.

Published decoder rows are unit vectors, so a cosine is a dot product. Shapes: F features, D width.
"""

from pathlib import Path

import numpy as np
from safetensors import safe_open

from sae_pipeline.errors import UserError

CHUNK_ROWS = 16_384


def nearest(folder: Path, direction_D: np.ndarray, n: int, without: int | None = None) -> list[tuple[int, float]]:
    """The `n` features of the SAE in `folder` whose decoder rows are closest to a unit direction: [(feature, cosine)]."""
    with safe_open(_weights(folder), framework="np") as file:
        rows_FD = file.get_slice("W_dec_FD")
        n_features = rows_FD.get_shape()[0]
        starts = range(0, n_features, CHUNK_ROWS)
        chunks = [rows_FD[start : min(start + CHUNK_ROWS, n_features)] @ direction_D for start in starts]
    cosine_F = np.concatenate(chunks)
    if without is not None:
        cosine_F[without] = -np.inf
    n = min(n, n_features - (without is not None))
    order = np.argpartition(-cosine_F, n - 1)[:n] if n else np.empty(0, np.int64)
    order = order[np.argsort(-cosine_F[order], kind="stable")]
    return [(int(feature), float(cosine_F[feature])) for feature in order]


def direction(folder: Path, feature: int) -> np.ndarray:
    """The decoder row of a feature, float32."""
    with safe_open(_weights(folder), framework="np") as file:
        return file.get_slice("W_dec_FD")[feature : feature + 1][0].astype(np.float32)


def _weights(folder: Path) -> Path:
    path = folder / "weights.safetensors"
    if not path.is_file():
        raise UserError(str(path), "is not there", "Run `sae-pipeline run`; tables alone have no decoder.")
    return path
