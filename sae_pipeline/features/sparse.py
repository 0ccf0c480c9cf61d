"""Sparse activations of many units (SAE features, neurons, random directions), column by column.

Shape legend: U units, Z stored activations. A unit's activations are one contiguous run, sorted by token; nothing of size
tokens x units is ever made.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet as pq
from scipy.sparse import csr_array

N_UNITS_KEY = b"n_units"


class SparseActivations:
    """`offsets` int64 (U+1), `token_index` int64 (Z), `value` float32 (Z > 0): unit u owns the run offsets[u]:offsets[u+1]."""

    def __init__(self, offsets: np.ndarray, token_index: np.ndarray, value: np.ndarray) -> None:
        self.offsets, self.token_index, self.value = offsets, token_index, value

    @classmethod
    def from_arrays(cls, unit: np.ndarray, token_index: np.ndarray, value: np.ndarray, n_units: int) -> Self:
        """From coordinates in any order. A (unit, token) pair may occur once; `ValueError` when a unit is out of range."""
        if len(unit) and (unit.min() < 0 or unit.max() >= n_units):
            raise ValueError(f"units run from {unit.min()} to {unit.max()}, but there are {n_units} of them")
        order = np.lexsort((token_index, unit))
        return cls.from_sorted(unit[order], token_index[order].astype(np.int64), value[order].astype(np.float32), n_units)

    @classmethod
    def from_sorted(cls, unit: np.ndarray, token_index: np.ndarray, value: np.ndarray, n_units: int) -> Self:
        """From coordinates that are sorted by unit and token already; no copies."""
        counts = np.bincount(unit, minlength=n_units)
        return cls(np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]), token_index, value)

    @classmethod
    def from_token_order(cls, unit: np.ndarray, token_index: np.ndarray, value: np.ndarray, n_units: int) -> Self:
        """From coordinates in token order (int64), as encoding yields them: within a unit they stay so. Values float32."""
        return cls.from_rows(np.arange(len(unit) + 1), unit, value, token_index, n_units)

    @classmethod
    def from_rows(
        cls, offsets_N1: np.ndarray, unit: np.ndarray, value: np.ndarray, token_index_N: np.ndarray, n_units: int
    ) -> Self:
        """From rows of activations: row i, offsets_N1[i]:offsets_N1[i + 1], is of token_index_N[i] (int64, ascending).

        Transposing a sparse matrix is a counting sort, and a stable one: within a unit rows stay in order.
        """
        by_unit = csr_array((value, unit, offsets_N1), shape=(len(token_index_N), n_units)).tocsc()
        return cls(by_unit.indptr.astype(np.int64), token_index_N[by_unit.indices], by_unit.data)

    @classmethod
    def merge(cls, parts: "Sequence[SparseActivations]") -> "SparseActivations":
        """The activations of shards of the tokens (equal numbers of units), bit for bit those of all tokens at once.

        `ValueError` when the ranges of tokens overlap (by more than one token, divided between two). Parts may come in any order.
        """
        parts = sorted((part for part in parts if len(part.value)), key=lambda part: part.token_range[0]) or list(parts[:1])
        if any(part.token_range[1] > following.token_range[0] for part, following in itertools.pairwise(parts)):
            raise ValueError("the token ranges of the parts overlap")
        if len(parts) == 1:
            return parts[0]
        offsets = np.sum([part.offsets for part in parts], axis=0)
        token_index, value = (np.empty(offsets[-1], getattr(parts[0], name).dtype) for name in ("token_index", "value"))
        free_U = offsets[:-1].copy()  # where the next part's activations of each unit go
        for part in parts:
            place_Z = np.repeat(free_U - part.offsets[:-1], part.count_U) + np.arange(len(part.value))
            token_index[place_Z], value[place_Z] = part.token_index, part.value
            free_U += part.count_U
        return cls(offsets, token_index, value)

    @classmethod
    def open(cls, path: Path | str, unit_column: str = "feature") -> Self:
        """Read a file with columns (`unit_column`, token_index, value) that is sorted by unit and token.

        The file's metadata says `n_units` (so that trailing units without activations are known). `ValueError` otherwise.
        """
        file = pq.ParquetFile(path)
        n_units = (file.metadata.metadata or {}).get(N_UNITS_KEY)
        if n_units is None:
            raise ValueError(f"{path}: no {N_UNITS_KEY.decode()} in its metadata: not a file of sparse activations")
        columns = file.read(columns=[unit_column, "token_index", "value"])
        unit = columns[unit_column].to_numpy()
        if np.any(np.diff(unit) < 0):
            raise ValueError(f"{path}: not sorted by {unit_column}")
        return cls.from_sorted(unit, columns["token_index"].to_numpy(), columns["value"].to_numpy(), int(n_units))

    @property
    def n_units(self) -> int:
        """U."""
        return len(self.offsets) - 1

    @property
    def token_range(self) -> tuple[int, int]:
        """(first, last) token index with any activation; `ValueError` when there is none."""
        return int(self.token_index.min()), int(self.token_index.max())

    @property
    def count_U(self) -> np.ndarray:
        """Number of activations of each unit, int64."""
        return np.diff(self.offsets)

    @cached_property
    def unit_Z(self) -> np.ndarray:
        """The unit of each activation, int64."""
        return np.repeat(np.arange(self.n_units), self.count_U)

    @cached_property
    def max_U(self) -> np.ndarray:
        """Largest activation of each unit, float32; 0 for units that are never active."""
        maximum = np.zeros(self.n_units, np.float32)
        active = np.flatnonzero(self.count_U)
        if len(active):
            maximum[active] = np.maximum.reduceat(self.value, self.offsets[active])
        return maximum

    def columns(self, units: np.ndarray) -> "SparseActivations":
        """Only these units, in this order."""
        runs = [self.of(int(unit)) for unit in units]
        counts = np.array([len(token_index) for token_index, _ in runs], np.int64)
        token_index = np.concatenate([run[0] for run in runs]) if runs else self.token_index[:0]
        value = np.concatenate([run[1] for run in runs]) if runs else self.value[:0]
        return SparseActivations(np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), token_index, value)

    def of(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """(token_index, value) of one unit, in token order; views, not copies."""
        run = slice(self.offsets[unit], self.offsets[unit + 1])
        return self.token_index[run], self.value[run]
