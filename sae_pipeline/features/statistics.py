"""Numbers about features: density, maximum, mean, documents, top token, interval histogram. Unmasked tokens only.

Shapes: U features of a chunk, Z activations of a chunk, G groups of a feature's activations on one token id, R runs of a
feature's activations in one document.
"""

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from sae_pipeline.features.chunks import Chunk
from sae_pipeline.features.intervals import interval_of
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.tables.columns import N_INTERVALS

AT_ONCE = 1 << 15  # activations whose intermediate values a cache holds


def feature_rows(
    chunk: Chunk, token_id: np.ndarray, first_row_R: np.ndarray, token_text: np.ndarray, n_tokens: dict[str, int]
) -> pl.DataFrame:
    """One row per feature of the chunk (table `features` without `size`).

    `token_id`: by token index. `first_row_R`: runs of one document in train (`document_runs`). `n_tokens`: unmasked tokens by
    split. Sums in float64.
    """
    train, held_out = chunk.by_split["train"], chunk.by_split["held_out"]
    mass_U = _sum_by_unit(train)
    top_id_U, top_mass_U = _top_token(train, token_id)
    active_U = train.count_U > 0
    return pl.DataFrame(
        {
            "feature": chunk.first_feature + np.arange(chunk.n_features),
            "alive": held_out.count_U > 0,
            "density": train.count_U / max(n_tokens["train"], 1),
            "density_held_out": held_out.count_U / max(n_tokens["held_out"], 1),
            "n_active_train": train.count_U,
            "n_active_held_out": held_out.count_U,
            "max_activation": train.max_U.astype(np.float64),
            "mean_activation": mass_U / np.maximum(train.count_U, 1),
            "n_documents_train": np.diff(np.searchsorted(first_row_R, train.offsets)),
            "top_token": np.where(active_U, token_text[top_id_U], ""),
            "top_token_share": np.minimum(top_mass_U / np.where(active_U, mass_U, 1), 1),
        }
    ).with_columns(pl.when(pl.Series(active_U)).then(pl.col("top_token", "top_token_share")))


def interval_rows(chunk: Chunk, cells: dict[str, np.ndarray]) -> pl.DataFrame:
    """Population of every activation interval that is not empty (table `feature_intervals` without `size`)."""
    frames = []
    for split, cell_Z in cells.items():
        n = np.bincount(cell_Z, minlength=chunk.n_features * N_INTERVALS)
        filled = np.flatnonzero(n)
        frames.append(
            pl.DataFrame(
                {
                    "feature": chunk.first_feature + filled // N_INTERVALS,
                    "split": [split] * len(filled),
                    "interval": filled % N_INTERVALS + 1,
                    "n": n[filled],
                }
            )
        )
    return pl.concat(frames).sort("feature", "split", "interval")


def cells_by_split(chunk: Chunk) -> dict[str, np.ndarray]:
    """The cell of every activation: unit x N_INTERVALS + its interval - 1. The training maximum divides both splits."""
    maximum_U = chunk.by_split["train"].max_U
    return {split: _cells(sparse, maximum_U) for split, sparse in chunk.by_split.items()}


def _cells(sparse: SparseActivations, maximum_U: np.ndarray) -> np.ndarray:
    cell_Z = sparse.unit_Z * N_INTERVALS
    for first in range(0, len(cell_Z), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        cell_Z[part] += interval_of(sparse.value[part], maximum_U[sparse.unit_Z[part]]) - 1
    return cell_Z


def _sum_by_unit(sparse: SparseActivations) -> np.ndarray:
    return np.bincount(sparse.unit_Z, weights=sparse.value, minlength=sparse.n_units)


def _top_token(sparse: SparseActivations, token_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(token id with the largest summed activation, that sum) per unit; the lower id wins a tie."""
    top_id_U, top_mass_U = np.zeros(sparse.n_units, np.int64), np.zeros(sparse.n_units)
    if not len(sparse.value):
        return top_id_U, top_mass_U
    id_Z = token_id[sparse.token_index]
    # Transposed, activations are sorted by token id, unit and token: groups of one id and unit lie together.
    by_id = csr_array((sparse.value, id_Z, sparse.offsets), shape=(sparse.n_units, int(id_Z.max()) + 1)).tocsc()
    is_first_Z = np.ones(len(id_Z), bool)
    np.not_equal(by_id.indices[1:], by_id.indices[:-1], out=is_first_Z[1:])
    is_first_Z[by_id.indptr[:-1][np.diff(by_id.indptr) > 0]] = True
    first_row_G = np.flatnonzero(is_first_Z)
    unit_G = by_id.indices[first_row_G]
    mass_G = np.add.reduceat(by_id.data.astype(np.float64), first_row_G)
    # From here on G groups are those that may be their unit's largest, few of them.
    large = np.flatnonzero(mass_G >= sparse.max_U[unit_G])
    unit_G, mass_G, first_row_G = unit_G[large], mass_G[large], first_row_G[large]
    np.maximum.at(top_mass_U, unit_G, mass_G)
    best = np.flatnonzero(mass_G == top_mass_U[unit_G])[::-1]  # backwards: the lowest id is written last
    top_id_U[unit_G[best]] = np.searchsorted(by_id.indptr, first_row_G[best], side="right") - 1
    return top_id_U, top_mass_U
