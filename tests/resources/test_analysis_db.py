import subprocess
import sys

import duckdb
import pytest

from resources.analysis_db import AnalysisDb
from sae_pipeline.errors import UserError
from sae_pipeline.preflight import check_database

HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "analysis.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table lineage as select 1 as x")
    return path


def test_reads_and_closes(database):
    resource = AnalysisDb(path=str(database))
    with pytest.raises(ZeroDivisionError), resource.open() as connection:
        assert connection.execute("select x from lineage").fetchone() == (1,)
        raise ZeroDivisionError
    with duckdb.connect(str(database)) as connection:  # a second configuration is only possible when the first is closed
        connection.execute("insert into lineage values (2)")


def test_read_only(database):
    with AnalysisDb(path=str(database)).open() as connection, pytest.raises(duckdb.Error):
        connection.execute("insert into lineage values (2)")


def test_missing_foreign_and_locked_files_are_user_errors(database, tmp_path):
    with pytest.raises(UserError, match="is not there yet"), AnalysisDb(path=str(tmp_path / "no.duckdb")).open():
        pass
    text = tmp_path / "text.duckdb"
    text.write_text("this is no database", encoding="utf-8")
    with pytest.raises(UserError, match="is not a DuckDB database"), AnalysisDb(path=str(text)).open():
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="open for writing in another program"), AnalysisDb(path=str(database)).open():
            pass
        with pytest.raises(UserError, match="open for writing in another program"):
            check_database(database)
    finally:
        holder.communicate("\n")


def test_preflight_refuses_a_database_of_something_else(tmp_path, database):
    check_database(tmp_path / "absent.duckdb")
    check_database(database)
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute("create table holidays as select 1 as x")
    before = other.read_bytes()
    with pytest.raises(UserError, match="a database of something else"):
        check_database(other)
    assert other.read_bytes() == before
    text = tmp_path / "text.duckdb"
    text.write_text("this is no database", encoding="utf-8")
    with pytest.raises(UserError, match="Move the file away"):
        check_database(text)
