"""The training history: at most about 1,000 rows, readable as Parquet while the run goes on."""

from io import BytesIO
from pathlib import Path

import polars as pl
from torch import Tensor

FILE = "history.parquet"
N_ROWS, N_WRITES = 1000, 50
SCHEMA = {
    "step": pl.Int32, "n_tokens": pl.Int64, "loss": pl.Float64, "mse": pl.Float64, "l0": pl.Float64,
    "explained_variance_batch": pl.Float64, "dead_fraction": pl.Float64, "learning_rate": pl.Float64, "l1": pl.Float64,
    "grad_norm": pl.Float64,
}  # fmt: skip


def read_history(folder: Path) -> pl.DataFrame:
    """The history so far, empty when there is none; safe while the run rewrites it.

    The bytes are taken in one go: a lazy reader opens the path twice and could meet two versions of the file.
    """
    file = folder / FILE
    return pl.read_parquet(BytesIO(file.read_bytes())) if file.is_file() else pl.DataFrame(schema=SCHEMA)


class History:
    """Collects rows (tensors stay on their device until they are written) and rewrites `history.parquet` now and then."""

    def __init__(self, folder: Path, n_steps: int) -> None:
        self._file = folder / FILE
        self._every = max(1, n_steps // N_ROWS)
        self._write_every = max(1, n_steps // N_WRITES)
        self._rows: list[dict[str, int | float | Tensor]] = []

    def wants(self, step: int) -> bool:
        """Whether this step gets a row."""
        return step % self._every == 0

    def is_due(self, step: int) -> bool:
        """Whether the file should be rewritten after this step."""
        return step % self._write_every == 0

    def add(self, row: dict[str, int | float | Tensor]) -> None:
        """One row; keys are those of `SCHEMA`."""
        self._rows.append(row)

    def write(self) -> pl.DataFrame:
        """Rewrite the file by a rename, so that a reader never sees half of it."""
        self._rows = [
            {key: value.item() if isinstance(value, Tensor) else value for key, value in row.items()} for row in self._rows
        ]
        frame = pl.DataFrame(self._rows, schema=SCHEMA)
        scratch = self._file.with_suffix(".tmp")
        frame.write_parquet(scratch)
        scratch.rename(self._file)
        return frame

    def resume(self, step: int) -> None:
        """Keep the rows before `step` of the file that a dead run left."""
        self._rows = read_history(self._file.parent).filter(pl.col("step") < step).to_dicts()
