"""The analysis database as an injected resource: read-only, and closed whatever happens.

Only the asset `analysis_tables` writes it, into a scratch file that replaces the old one; a reader keeps the file it opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    import duckdb


class AnalysisDb(dg.ConfigurableResource):
    """`data/<study>/analysis.duckdb`."""

    path: str = Field(description="the DuckDB file")

    @contextmanager
    def open(self) -> Iterator["duckdb.DuckDBPyConnection"]:
        """A read-only connection. Raises `UserError` when the file is missing, locked, or not a DuckDB database."""
        from sae_pipeline.errors import UserError
        from sae_pipeline.preflight import open_database

        if not Path(self.path).is_file():
            raise UserError(self.path, "is not there yet", "Run `sae-pipeline run`, or materialize analysis_tables.")
        connection = open_database(Path(self.path))
        try:
            yield connection
        finally:
            connection.close()
