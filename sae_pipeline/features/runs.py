"""Activations of a pass, sorted by feature a run of tokens at a time and kept on disk until they are read feature by feature.

An external sort that profits from its input's order: encoding yields tokens in order, a run holds consecutive tokens, so merging
runs is joining them feature by feature. Shards of the tokens, whoever encoded them, merge in the same way, bit for bit.

Shapes: U features of a range, Z activations, F features.
"""

from pathlib import Path

import numpy as np

from sae_pipeline.features.sparse import SparseActivations

RUN_ROWS = 1 << 22  # activations of a run: 64 MB, and about twice that while it is sorted
_PARTS = ("offsets", "token_index", "value")


class Runs:
    """Sorted runs in `folder`, filled by `add` in token order. Memory: one run, and 8 bytes a feature while runs are counted."""

    def __init__(self, folder: Path, n_features: int, run_rows: int = RUN_ROWS) -> None:
        self.n_features, self.rows_F = n_features, np.zeros(n_features, np.int64)
        self._folder, self._run_rows = folder, run_rows
        self._pending: list[tuple[np.ndarray, ...]] = []
        self._n_pending = self._n_runs = 0
        folder.mkdir(parents=True)

    def add(self, feature_Z: np.ndarray, token_index_Z: np.ndarray, value_Z: np.ndarray) -> None:
        """Activations of the next tokens, sorted by token (int64); values float32."""
        self._pending.append((feature_Z, token_index_Z, value_Z))
        self._n_pending += len(value_Z)
        if self._n_pending >= self._run_rows:
            self.flush()

    def flush(self) -> None:
        """Sort and write what is still in memory."""
        if not self._n_pending:
            return
        feature_Z, token_index_Z, value_Z = (np.concatenate(column) for column in zip(*self._pending, strict=True))
        run = SparseActivations.from_token_order(feature_Z, token_index_Z, value_Z, self.n_features)
        for name in _PARTS:
            np.save(self._file(self._n_runs, name), getattr(run, name))
        self.rows_F += run.count_U
        self._n_runs, self._n_pending, self._pending = self._n_runs + 1, 0, []

    def between(self, first: int, last: int) -> SparseActivations:
        """The activations of the features first .. last - 1 on all tokens added; units count from `first`."""
        parts = []
        for run in range(self._n_runs):
            offsets, token_index, value = (np.load(self._file(run, name), mmap_mode="r") for name in _PARTS)
            rows = slice(offsets[first], offsets[last])
            parts.append(SparseActivations(offsets[first : last + 1] - offsets[first], token_index[rows], value[rows]))
        none = SparseActivations(np.zeros(last - first + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        return SparseActivations.merge([*parts, none])

    def _file(self, run: int, name: str) -> Path:
        return self._folder / f"{run}.{name}.npy"
