"""Hold Parquet files to their schemas a bounded number of rows at a time, however long they are."""

from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq

from sae_pipeline.tables.schemas import TABLES, check

ROWS_AT_ONCE = 200_000


class RowsRepeat(ValueError):
    """Two rows of a file have the same key."""


def check_file(name: str, path: Path, size: int | None = None) -> int:
    """Hold a Parquet file to table `name`, and its `size` column to `size`; returns its number of rows.

    Raises `pandera.errors.SchemaErrors`, `RowsRepeat`, or `ValueError` when a row belongs to another size.
    """
    table, file = TABLES[name], pq.ParquetFile(path)
    n_rows, last_row = 0, None
    for batch in file.iter_batches(ROWS_AT_ONCE):
        frame = pl.DataFrame(pl.from_arrow(batch))
        check(name, frame if last_row is None else pl.concat([last_row, frame]))
        last_row = frame.tail(1) if table.ascending else None
        if size is not None and "size" in frame.columns and (frame["size"] != size).any():
            raise ValueError(f"{path}: rows of other sizes than {size}")
        n_rows += len(frame)
    if n_rows == 0:
        check(name, pl.read_parquet(path))
    if n_rows > ROWS_AT_ONCE and not table.ascending:
        # Within one batch the schema has found repeated rows; between batches only the whole file shows them.
        key = ", ".join(table.key)
        with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
            found = connection.execute(f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM read_parquet($f))", {"f": str(path)})
            (n_distinct,) = found.fetchall()[0]
        if n_distinct != n_rows:
            raise RowsRepeat(f"{path}: {n_rows - n_distinct} rows repeat the key ({key})")
    return n_rows
