"""Which activations become examples: the strongest of distinct documents, and uniform samples of each activation interval.

Both depend on nothing but the activations themselves (and the seed): not on batches, chunks, shards or the order of reading.
The n lowest priorities of a whole are the n lowest of its parts' n lowest, so the sample is a reservoir that merges. Intervals
divide the training maximum, which is known only at the end: the sample is drawn from the sorted activations, exact in each.

Shapes: U units, Z activations, G groups, R runs of activations of one unit in one document; arrays of one shape are parallel.
"""

import numpy as np

from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.tables.columns import N_INTERVALS

SPARE = 16  # a group's sample of n is looked for among about n + 16; at n 5 one group in 100,000 has fewer than n of them
HASHED_AT_ONCE = 1 << 16  # what a cache holds: ten times faster than over arrays that do not fit


def sample_priority(unit_Z: np.ndarray, token_index_Z: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random uint64 per (seed, unit, token): the lowest n of a group are a uniform sample of it.

    SplitMix64 (Steele, Lea and Flood, 'Fast splittable pseudorandom number generators', 2014), once over each part.
    """
    state_Z = np.empty(len(unit_Z), np.uint64)
    lowest, highest = (int(unit_Z.min()), int(unit_Z.max())) if len(unit_Z) else (0, 0)
    of_unit_U = _mix(_mix(np.full(1, seed, np.uint64)) + np.arange(lowest, highest + 1, dtype=np.uint64))
    for first in range(0, len(unit_Z), HASHED_AT_ONCE):
        part = slice(first, first + HASHED_AT_ONCE)
        z = of_unit_U[unit_Z[part] - lowest]
        state_Z[part] = _mix(np.add(z, token_index_Z[part].astype(np.uint64), out=z))
    return state_Z


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's step, in place."""
    shifted = np.empty_like(z)
    z += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= np.right_shift(z, np.uint64(shift), out=shifted)
        z *= np.uint64(factor)
    z ^= np.right_shift(z, np.uint64(31), out=shifted)
    return z


def document_runs(sparse: SparseActivations, document_Z: np.ndarray) -> np.ndarray:
    """First row of each run of activations of one unit in one document. A document's tokens are consecutive, so is its run."""
    is_first_Z = np.ones(len(document_Z), bool)
    np.not_equal(document_Z[1:], document_Z[:-1], out=is_first_Z[1:])
    is_first_Z[sparse.offsets[:-1][sparse.count_U > 0]] = True
    return np.flatnonzero(is_first_Z)


def strongest_of_distinct_documents(
    sparse: SparseActivations, first_row_R: np.ndarray, cell_Z: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rank from 1) of the `n` strongest activations of each unit, each document's strongest only.

    `first_row_R`: the runs (see `document_runs`). Ties go to the earlier row. Sorted by unit and rank.
    """
    if not len(first_row_R):
        return first_row_R, first_row_R.astype(np.int16)
    row = np.flatnonzero(cell_Z >= _lowest_needed_cell(cell_Z[first_row_R], sparse.n_units, n)[sparse.unit_Z])
    begins_Z = np.zeros(len(cell_Z), bool)
    begins_Z[first_row_R] = True
    number = np.cumsum(begins_Z, dtype=np.int32)[row]  # of the run; from here on R runs are those that have a row here
    first_R = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    value = sparse.value[row]
    max_R, unit_R = np.maximum.reduceat(value, first_R), sparse.unit_Z[row[first_R]]
    # Positive floats order like their bits, of which the first is 0; turned over, the strongest is the lowest.
    weakness_R = (~max_R.astype(np.float32).view(np.uint32)).astype(np.uint64) << np.uint64(33)
    run, rank = _lowest(unit_R, weakness_R, n)
    return row[_first_with(value, max_R[run], first_R[run], np.append(first_R[1:], len(row))[run])], rank


def _lowest_needed_cell(cell_R: np.ndarray, n_units: int, n: int) -> np.ndarray:
    """Of each unit a cell below which none of its `n` strongest runs lies, by the cells in which runs begin."""
    from_top_UI = np.bincount(cell_R, minlength=n_units * N_INTERVALS).reshape(n_units, N_INTERVALS)[:, ::-1].cumsum(1)
    n_below_U = np.where(from_top_UI[:, -1] < n, N_INTERVALS - 1, (from_top_UI >= n).argmax(1))
    return np.arange(n_units) * N_INTERVALS + (N_INTERVALS - 1 - n_below_U)


def _first_with(value_Z: np.ndarray, wanted_R: np.ndarray, first_R: np.ndarray, stop_R: np.ndarray) -> np.ndarray:
    """First row of first_R .. stop_R - 1 with the value wanted of each of R runs, in any order; every run has one."""
    length_R = stop_R - first_R
    start_R = np.cumsum(length_R) - length_R  # of the run's rows among the rows of all runs, laid end to end
    row = np.arange(length_R.sum()) + np.repeat(first_R - start_R, length_R)
    row[value_Z[row] != np.repeat(wanted_R, length_R)] = len(value_Z)
    return np.minimum.reduceat(row, start_R)


def uniform_by_interval(cell_Z: np.ndarray, priority_Z: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rank from 1) of a uniform sample of `n` activations of each cell (a unit's interval), or all where there are fewer.

    Sorted by cell and rank; a longer sample begins with the shorter one.
    """
    if not len(cell_Z):
        return np.zeros(0, np.int64), np.zeros(0, np.int16)
    row_Z = _low_enough(cell_Z, priority_Z, n)
    chosen, rank = _lowest(cell_Z[row_Z], priority_Z[row_Z], n)
    return row_Z[chosen], rank


def _low_enough(group_Z: np.ndarray, key_Z: np.ndarray, n: int) -> np.ndarray:
    """Rows, ascending, among which the `n` lowest keys of every group are, and few others when keys are uniform.

    They are those up to a limit, below which n + SPARE are expected; of a group that has fewer than `n` there, all.
    """
    count_G = np.bincount(group_Z)
    limit_G = np.full(len(count_G), np.iinfo(np.uint64).max, np.uint64)
    large = np.flatnonzero(count_G > n + SPARE)
    limit_G[large] = ((n + SPARE) / count_G[large] * 2.0**64).astype(np.uint64)
    low_Z = key_Z <= limit_G[group_Z]
    row_Z = np.flatnonzero(low_Z)
    short_G = np.bincount(group_Z[row_Z], minlength=len(count_G)) < np.minimum(count_G, n)
    return np.flatnonzero(low_Z | short_G[group_Z]) if short_G.any() else row_Z


def _lowest(group_Z: np.ndarray, key_Z: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rank from 1) of the `n` lowest uint64 keys of each group, sorted by group and rank; ties go to the earlier row.

    Group, as much of the key as there is room for, and row make one number of 64 bits: NumPy sorts numbers many times faster than
    it finds an order. Groups and rows of a chunk take about 36 bits.
    """
    row_bits = max(1, (len(group_Z) - 1).bit_length())
    n_lost = int(group_Z.max()).bit_length() + row_bits  # bits of the key that find no room
    sorted_Z = group_Z.astype(np.uint64) << np.uint64(64 - n_lost)
    sorted_Z |= key_Z >> np.uint64(n_lost)
    sorted_Z <<= np.uint64(row_bits)
    sorted_Z |= np.arange(len(group_Z), dtype=np.uint64)
    sorted_Z.sort()
    row_Z = _rows_in_order(sorted_Z, key_Z, row_bits)
    count_G = np.bincount(group_Z)
    n_G = np.minimum(count_G, n)
    rank = np.arange(n_G.sum()) - np.repeat(np.cumsum(n_G) - n_G, n_G)
    return row_Z[np.repeat(np.cumsum(count_G) - count_G, n_G) + rank], (rank + 1).astype(np.int16)


def _rows_in_order(sorted_Z: np.ndarray, key_Z: np.ndarray, row_bits: int) -> np.ndarray:
    """The rows in the lower bits, in place; those of a group that agree in part of their keys in the order of the whole keys."""
    upper_Z = sorted_Z >> np.uint64(row_bits)
    sorted_Z &= np.uint64((1 << row_bits) - 1)
    row_Z = sorted_Z.view(np.int64)
    first = np.flatnonzero(upper_Z[1:] == upper_Z[:-1])
    if np.any(key_Z[row_Z[first]] != key_Z[row_Z[first + 1]]):
        tied = np.union1d(first, first + 1)
        row = row_Z[tied]
        row_Z[tied] = row[np.lexsort((row, key_Z[row], upper_Z[tied]))]
    return row_Z
