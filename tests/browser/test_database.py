"""The database under the pages: read-only, locked in, replaced while open."""

from pathlib import Path

import duckdb
import polars as pl
import pytest

from sae_pipeline.browser.database import Database
from sae_pipeline.errors import UserError
from tests.synthetic_analysis import synthetic_tables, write_synthetic_analysis


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_synthetic_analysis(tmp_path / "it's analysis.duckdb")


@pytest.mark.parametrize(
    "query",
    ["select * from read_csv('/etc/passwd')", "copy (select 1) to '/tmp/out.csv'", "attach '/tmp/other.duckdb'", "install httpfs",
     "set enable_external_access = true", "create table analysis.more as select 1", "delete from features"],
)  # fmt: skip
def test_no_query_reaches_a_file_or_writes(path: Path, query: str):
    with Database(path).cursor() as cursor, pytest.raises(duckdb.Error):
        cursor.rows(query)


def test_a_new_version_is_seen_and_an_open_request_keeps_its_own(path: Path, tmp_path: Path):
    database = Database(path)
    tables = synthetic_tables()
    frame = tables["features"] = tables["features"].with_columns(pl.lit(0.5).alias("density"))
    with database.cursor() as old:
        before = old.rows("select sum(density) as d from features")
        write_synthetic_analysis(tmp_path / "new.duckdb", tables).replace(path)
        with database.cursor() as new:
            assert new.rows("select sum(density) as d from features")[0]["d"] == frame.height / 2
        assert old.rows("select sum(density) as d from features") == before


def test_missing_and_foreign_files_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="is not there yet"), Database(tmp_path / "none.duckdb").cursor():
        pass
    (tmp_path / "text.duckdb").write_text("no database", encoding="utf-8")
    with pytest.raises(UserError, match="not a DuckDB database"), Database(tmp_path / "text.duckdb").cursor():
        pass
