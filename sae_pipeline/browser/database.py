"""The analysis database as the browser sees it: read-only, no way out to files, one cursor per request, new versions.

The file is attached to an in-memory database of its own per version. That keeps the small search table that we derive from it
in memory, lets old requests finish on the old file while new ones read the new one, and never reuses a cached handle: opening
a replaced file by the same name would otherwise go on showing the old one.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb

from sae_pipeline.errors import UserError

Row = dict[str, Any]
Stamp = tuple[int, int, int]


class Database:
    """`analysis.duckdb` of one study."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._version: _Version | None = None

    @contextmanager
    def cursor(self) -> Iterator["Cursor"]:
        """A cursor on the newest version. Raises `UserError` when the file is missing or no DuckDB database."""
        version = self._newest()
        cursor = version.connection.cursor()
        try:
            cursor.execute("use analysis").fetchall()
            yield Cursor(cursor, version)
        finally:
            cursor.close()

    def close(self) -> None:
        """Let go of the file; the next request opens it again."""
        with self._lock:
            if self._version is not None:
                self._version.connection.close()
            self._version = None

    def _newest(self) -> "_Version":
        with self._lock:
            try:
                status = self.path.stat()
            except OSError as error:
                raise UserError(str(self.path), "is not there yet", "Run `sae-pipeline run` first.") from error
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._version is None or self._version.stamp != stamp:
                # The old version is closed when the last request that reads it lets go of it.
                self._version = _Version(stamp, _attach(self.path), threading.Lock())
            return self._version


@dataclass
class _Version:
    stamp: Stamp
    connection: duckdb.DuckDBPyConnection
    lock: threading.Lock
    has_search_table: bool = False


class Cursor:
    """Queries of one request, results as dictionaries."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, version: _Version) -> None:
        self._cursor, self._version = cursor, version

    def rows(self, query: str, **parameters: Any) -> list[Row]:
        """All rows. Values go in as `$name` parameters, never into the text."""
        result = self._cursor.execute(query, parameters or None)
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def row(self, query: str, **parameters: Any) -> Row | None:
        """The first row, None when there is none."""
        found = self.rows(query, **parameters)
        return found[0] if found else None

    def need_search_table(self) -> None:
        """Make `memory.main.feature_list` once per version: one row per feature with all that people search and sort by."""
        with self._version.lock:
            if not self._version.has_search_table:
                query = files("sae_pipeline.browser").joinpath("feature_list.sql").read_text(encoding="utf-8")
                self._cursor.execute(query).fetchall()
                self._version.has_search_table = True


def _attach(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "threads": 2}
    )
    quoted = str(path).replace("'", "''")
    try:
        connection.execute(f"attach '{quoted}' as analysis (read_only)").fetchall()
    except duckdb.Error as error:
        connection.close()
        if "lock" in str(error).lower():
            raise UserError(str(path), "is open for writing in another program", "Close it there and reload the page.") from error
        mend = "Move the file away and run `sae-pipeline run`: it writes a new one."
        raise UserError(str(path), "is not a DuckDB database of this version", mend) from error
    # From here on no query can reach a file, whatever it says.
    connection.execute("set enable_external_access = false").fetchall()
    connection.execute("set lock_configuration = true").fetchall()
    return connection
