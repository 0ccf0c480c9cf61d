"""Which activations become examples: the strongest of distinct documents, and uniform samples of each activation interval.

Both depend on nothing but the activations themselves (and the seed): not on batches, chunks or the order of reading.

Shapes: U units, Z activations, all arrays parallel.
"""

import numpy as np
import polars as pl

from sae_pipeline.tables.columns import N_INTERVALS


def sample_priority(unit_Z: np.ndarray, token_index_Z: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random uint64 per (seed, unit, token): the lowest n of a group are a uniform sample of it.

    SplitMix64 (Steele, Lea and Flood, 'Fast splittable pseudorandom number generators', 2014), once over each part.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.full(1, seed, np.uint64))
        state = _mix(state + unit_Z.astype(np.uint64))
        return _mix(state + token_index_Z.astype(np.uint64))


def _mix(state: np.ndarray) -> np.ndarray:
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def strongest_of_distinct_documents(
    unit_Z: np.ndarray, document_Z: np.ndarray, value_Z: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rank from 1) of the `n` strongest activations of each unit, each document's strongest only.

    Ties go to the earlier row. Sorted by unit and rank.
    """
    best = (
        pl.DataFrame({"unit": unit_Z, "document": document_Z, "value": value_Z, "row": np.arange(len(unit_Z))})
        .group_by("unit", "document")
        .agg(pl.col("value").max(), pl.col("row").get(pl.col("value").arg_max()))
        .sort("unit", "value", "row", descending=[False, True, False])
    )
    return _first_of_each(best["unit"].to_numpy(), best["row"].to_numpy(), n)


def uniform_by_interval(
    unit_Z: np.ndarray, interval_Z: np.ndarray, priority_Z: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rank from 1) of a uniform sample of `n` activations of each (unit, interval), or all where there are fewer.

    Sorted by unit, interval and rank; a longer sample begins with the shorter one.
    """
    group_Z = unit_Z.astype(np.int64) * N_INTERVALS + (interval_Z - 1)
    drawn = pl.DataFrame({"group": group_Z, "priority": priority_Z, "row": np.arange(len(unit_Z))}).sort(
        "group", "priority", "row"
    )
    return _first_of_each(drawn["group"].to_numpy(), drawn["row"].to_numpy(), n)


def _first_of_each(group: np.ndarray, row: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `n` rows of each run of equal groups, with their place in the run from 1."""
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])) if len(group) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(group)))
    rank = np.arange(len(group)) - np.repeat(starts, lengths) + 1
    return row[rank <= n], rank[rank <= n].astype(np.int16)
