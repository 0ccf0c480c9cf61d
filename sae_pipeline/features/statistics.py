"""Numbers about features: density, maximum, mean, documents, top token, interval histogram. Unmasked tokens only.

Shapes: U features of a chunk, Z activations of a chunk.
"""

import numpy as np
import polars as pl

from sae_pipeline.features.chunks import Chunk
from sae_pipeline.features.intervals import interval_of
from sae_pipeline.features.selection import document_runs
from sae_pipeline.features.sparse import SparseActivations, order_by_group
from sae_pipeline.tables.columns import N_INTERVALS


def feature_rows(
    chunk: Chunk, token_id: np.ndarray, document: np.ndarray, token_text: np.ndarray, n_tokens: dict[str, int]
) -> pl.DataFrame:
    """One row per feature of the chunk (table `features` without `size`).

    `token_id`, `document`: by token index. `n_tokens`: unmasked tokens by split. Sums in float64.
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
            "n_documents_train": _n_documents(train, document),
            "top_token": np.where(active_U, token_text[top_id_U], ""),
            "top_token_share": np.minimum(top_mass_U / np.where(active_U, mass_U, 1), 1),
        }
    ).with_columns(pl.when(pl.Series(active_U)).then(pl.col("top_token", "top_token_share")))


def interval_rows(chunk: Chunk, intervals: dict[str, np.ndarray]) -> pl.DataFrame:
    """Population of every activation interval that is not empty (table `feature_intervals` without `size`)."""
    frames = []
    for split, sparse in chunk.by_split.items():
        n = np.bincount(
            sparse.unit_Z * N_INTERVALS + (intervals[split].astype(np.int64) - 1), minlength=chunk.n_features * N_INTERVALS
        )
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


def intervals_by_split(chunk: Chunk) -> dict[str, np.ndarray]:
    """Activation interval of every activation; the training maximum divides both splits."""
    maximum_U = chunk.by_split["train"].max_U
    return {split: interval_of(sparse.value, maximum_U[sparse.unit_Z]) for split, sparse in chunk.by_split.items()}


def _sum_by_unit(sparse: SparseActivations) -> np.ndarray:
    return np.bincount(sparse.unit_Z, weights=sparse.value, minlength=sparse.n_units)


def _n_documents(sparse: SparseActivations, document: np.ndarray) -> np.ndarray:
    return np.diff(np.searchsorted(document_runs(sparse, document[sparse.token_index]), sparse.offsets))


def _top_token(sparse: SparseActivations, token_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(token id with the largest summed activation, that sum) per unit; the lower id wins a tie."""
    top_id_U, top_mass_U = np.zeros(sparse.n_units, np.int64), np.zeros(sparse.n_units)
    if not len(sparse.value):
        return top_id_U, top_mass_U
    id_Z = token_id[sparse.token_index]
    id_bits = int(id_Z.max()).bit_length()
    group_Z, order = order_by_group((sparse.unit_Z << id_bits) | id_Z)
    start = np.flatnonzero(np.concatenate([[True], group_Z[1:] != group_Z[:-1]]))
    mass = np.add.reduceat(sparse.value[order].astype(np.float64), start)
    unit, id_of_group = group_Z[start] >> id_bits, group_Z[start] & ((1 << id_bits) - 1)
    active_U = np.flatnonzero(sparse.count_U)
    top_mass_U[active_U] = np.maximum.reduceat(mass, np.searchsorted(unit, active_U))
    best = np.flatnonzero(mass == top_mass_U[unit])[::-1]  # backwards: the lowest id is written last
    top_id_U[unit[best]] = id_of_group[best]
    return top_id_U, top_mass_U
