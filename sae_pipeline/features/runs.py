"""Activations of a pass, sorted by feature a run of tokens at a time and kept on disk until they are read feature by feature.

An external sort that profits from its input's order: encoding yields tokens in order, a run holds consecutive tokens, so merging
runs is joining them feature by feature. Shards of the tokens, whoever encoded them, merge in the same way, bit for bit.

Shapes: N tokens, U features of a range, Z activations, F features.
"""

from pathlib import Path

import numpy as np

from sae_pipeline.features.sparse import SparseActivations

RUN_ROWS = 1 << 20  # activations of a run: 16 MB, sorted where a cache holds them


class Runs:
    """Sorted runs, filled by `add` in token order; all but the last lie in `folder`. Memory: a run, and a few bytes a feature."""

    def __init__(self, folder: Path, n_features: int, run_rows: int = RUN_ROWS) -> None:
        self.n_features, self.rows_F = n_features, np.zeros(n_features, np.int64)
        self._folder, self._run_rows = folder, run_rows
        self._pending: list[tuple[np.ndarray, ...]] = []
        self._n_pending, self._runs = 0, list[SparseActivations]()
        folder.mkdir(parents=True)

    def add(self, token_index_N: np.ndarray, count_N: np.ndarray, feature_Z: np.ndarray, value_Z: np.ndarray) -> None:
        """The next tokens (int64, ascending), how many features are active on each, which, and how much (float32)."""
        self._pending.append((token_index_N, count_N, feature_Z, value_Z))
        self._n_pending += len(value_Z)
        if self._n_pending >= self._run_rows:
            run = self._sorted()
            names = [self._folder / f"{len(self._runs)}.{part}.npy" for part in ("offsets", "token_index", "value")]
            for name, array in zip(names, (run.offsets, run.token_index, run.value), strict=True):
                np.save(name, array)
            self._runs.append(SparseActivations(*(np.load(name, mmap_mode="r") for name in names)))

    def finish(self) -> None:
        """Sort what is still pending; nothing is added after this."""
        if self._n_pending:
            self._runs.append(self._sorted())

    def merge(self, other: "Runs") -> None:
        """Add the finished runs of other tokens (whichever come first). The two folders belong together from then on."""
        self._runs += other._runs
        self.rows_F += other.rows_F

    def between(self, first: int, last: int) -> SparseActivations:
        """The activations of the features first .. last - 1 on all tokens added; units count from `first`."""
        parts = [SparseActivations(np.zeros(last - first + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
        for run in self._runs:
            offsets = np.asarray(run.offsets[first : last + 1])
            rows = slice(offsets[0], offsets[-1])
            parts.append(SparseActivations(offsets - offsets[0], run.token_index[rows], run.value[rows]))
        return SparseActivations.merge(parts)

    def _sorted(self) -> SparseActivations:
        token_index_N, count_N, feature_Z, value_Z = (np.concatenate(column) for column in zip(*self._pending, strict=True))
        self._n_pending, self._pending = 0, []
        offsets_N1 = np.append(0, np.cumsum(count_N))
        run = SparseActivations.from_rows(offsets_N1, feature_Z, value_Z, token_index_N, self.n_features)
        self.rows_F += run.count_U
        return run
