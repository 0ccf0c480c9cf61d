"""Parts of a stage that a killed run finds again: each a table, put whole into the stage's work folder."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

PARTS = "parts"


def kept(file: Path, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """The table in `file`, made and written first where there is none. What is cut off in the middle does not bear its name.

    It is read back in any case, so that a run that was killed goes on with exactly what an undisturbed one has.
    """
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        partial = file.with_suffix(".partial")
        make().write_parquet(partial)
        partial.replace(file)
    return pl.read_parquet(file)
