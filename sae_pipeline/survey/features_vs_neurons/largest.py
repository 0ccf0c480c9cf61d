"""The largest values of every column of a stream, with their rows: thresholds without the whole matrix.

A threshold that gives a column n active rows is its (n + 1)-th largest value, and the rows above it are among the n largest. Only
these are kept, so memory grows with the active pairs and never with rows x columns.

Shapes: N rows of a part, C columns, Z values kept of a column, P active pairs.
"""

import numpy as np
import torch
from torch import Tensor


class Largest:
    """Keeps the `n_active_C[c] + 1` largest values of column c. Parts may come in any order; a row must not come twice."""

    def __init__(self, n_active_C: np.ndarray) -> None:
        self._wanted_C = np.asarray(n_active_C, np.int64) + 1
        self._value: list[list[Tensor]] = [[] for _ in self._wanted_C]
        self._row: list[list[Tensor]] = [[] for _ in self._wanted_C]
        self._held_C = np.zeros(len(self._wanted_C), np.int64)
        self._bound_C = torch.full((len(self._wanted_C),), -torch.inf)

    @property
    def n_held(self) -> int:
        """Values in memory."""
        return int(self._held_C.sum())

    def add(self, value_NC: Tensor, row_N: Tensor) -> None:
        """`value_NC`: float32 values of the rows `row_N` (int64), on the CPU."""
        column, at = (value_NC > self._bound_C).T.nonzero(as_tuple=True)
        found = value_NC[at, column]
        n_C = torch.bincount(column, minlength=len(self._wanted_C)).tolist()
        for c, (value_Z, at_Z) in enumerate(zip(found.split(n_C), at.split(n_C), strict=True)):
            if not len(value_Z):
                continue
            self._value[c].append(value_Z)
            self._row[c].append(row_N[at_Z])
            self._held_C[c] += len(value_Z)
            if self._held_C[c] >= 2 * self._wanted_C[c]:
                self._shrink(c)

    def _shrink(self, c: int) -> None:
        """Only the largest stay. Of values equal to the least of them any may go: no pair lies there."""
        value_Z, row_Z = torch.cat(self._value[c]), torch.cat(self._row[c])
        top = value_Z.topk(min(int(self._wanted_C[c]), len(value_Z)))
        self._value[c], self._row[c] = [top.values], [row_Z[top.indices]]
        self._held_C[c] = len(top.values)
        if len(top.values) == self._wanted_C[c]:
            self._bound_C[c] = top.values[-1]

    def finish(self) -> Tensor:
        """The thresholds, C values: of column c its (n + 1)-th largest value. Raises `ValueError` for a column of fewer rows."""
        for c in range(len(self._wanted_C)):
            if self._held_C[c] < self._wanted_C[c]:
                raise ValueError(f"column {c} has {self._held_C[c]} values, {self._wanted_C[c]} are wanted")
            self._shrink(c)
        return self._bound_C.clone()

    def above(self) -> tuple[Tensor, Tensor, Tensor]:
        """(row, column, value - threshold) of what lies above the thresholds, by row, then column. After `finish`."""
        column_P = torch.from_numpy(np.repeat(np.arange(len(self._wanted_C)), self._held_C))
        row_P, value_P = (torch.cat([torch.cat(each) for each in parts]) for parts in (self._row, self._value))
        over_P = value_P - self._bound_C[column_P]
        row_P, column_P, over_P = (each[over_P > 0] for each in (row_P, column_P, over_P))
        order = torch.from_numpy(np.lexsort((column_P.numpy(), row_P.numpy())))
        return row_P[order], column_P[order], over_P[order]
