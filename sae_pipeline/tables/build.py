"""The stage `analysis_tables`: every table and view in one DuckDB file, written aside and swapped in whole.

The file is made from Parquet of the other stages and from their manifests; nothing is computed here that is not there.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from sae_pipeline.digests import value_digest
from sae_pipeline.preflight import check_database
from sae_pipeline.progress import bar
from sae_pipeline.stages import STAGES, sizes_of
from sae_pipeline.store import ArtifactStore, Manifest, Outcome
from sae_pipeline.tables.files import check_file
from sae_pipeline.tables.sae_tables import MIXING
from sae_pipeline.tables.schemas import TABLES, conform, empty, polars_schema
from sae_pipeline.tables.views import VIEWS, create_views, sql_text

DATABASE = "analysis.duckdb"
ROW_COUNTS = "row_counts.json"  # what the artefact's own folder holds: {table: rows}
STAGE = "analysis_tables"
_SQL_TYPES: dict[Any, str] = {
    pl.Int8: "TINYINT", pl.Int16: "SMALLINT", pl.Int32: "INTEGER", pl.Int64: "BIGINT", pl.Float32: "REAL", pl.Float64: "DOUBLE",
    pl.Boolean: "BOOLEAN", pl.String: "VARCHAR", pl.Datetime: "TIMESTAMP",
}  # fmt: skip


@dataclass(frozen=True)
class Artefact:
    """One published artefact that goes into the database."""

    stage: str
    size: int | None
    folder: Path
    manifest: Manifest


def build_analysis_db(store: ArtifactStore, work: Path) -> Outcome:
    """Rebuild `data/<study>/analysis.duckdb` from every upstream artefact of every size.

    Raises `UserError` when an artefact is missing or damaged, or when something else holds the database's place (another
    program writing it, a file that is no database of ours); the old file then stays as it is. The data version is the digest of
    what went in: a DuckDB file is not the same bytes twice.
    """
    target = store.root / DATABASE
    check_database(target)
    artefacts = list(_upstream(store))
    for left_over in work.iterdir():
        left_over.unlink()
    scratch = work / DATABASE
    with duckdb.connect(str(scratch), config={"autoinstall_known_extensions": False}) as connection:
        n_rows = _fill(connection, artefacts)
        create_views(connection)
    (work / ROW_COUNTS).write_text(json.dumps(n_rows, indent=1) + "\n", encoding="utf-8")
    n_bytes = scratch.stat().st_size
    check_database(target)  # once more: filling took a while
    _swap(scratch, target)
    inputs = {f"{artefact.stage}/{artefact.size}": artefact.manifest.data_version for artefact in artefacts}
    version = value_digest([STAGES[STAGE].code_version, inputs, n_rows])
    return Outcome(
        metadata={
            "n_tables": len(n_rows),
            "n_views": len(VIEWS),
            "n_rows": sum(n_rows.values()),
            "megabytes": round(n_bytes / 1e6, 1),
        }
        | {f"n_rows {name}": count for name, count in n_rows.items()},
        data_version=version,
        also=(target,),
    )


def _upstream(store: ArtifactStore) -> Iterator[Artefact]:
    for stage in (*STAGES[STAGE].upstream, *store.optional(STAGE)):
        for size in sizes_of(store.study, stage):
            folder = store.require(stage, size)
            manifest = store.manifest(stage, size)
            assert manifest is not None
            yield Artefact(stage, size, folder, manifest)


def _fill(connection: duckdb.DuckDBPyConnection, artefacts: list[Artefact]) -> dict[str, int]:
    """Create and fill every table; returns the rows of each. `ValueError` when the counts differ from the files'."""
    n_rows = {}
    tables = {name: table for name, table in TABLES.items() if table.in_database}
    with bar("analysis tables", len(tables), "tables") as progress:
        for name, table in tables.items():
            _create(connection, name)
            expected = 0
            if name == "lineage":
                expected = _insert_frame(connection, name, lineage(artefacts))
            for artefact in artefacts:
                path = artefact.folder / Path(table.file).name
                if table.file.split("/")[0] in (artefact.stage, "<stage>") and path.suffix == ".parquet" and path.is_file():
                    expected += check_file(name, path, artefact.size)
                    _insert_file(connection, name, path, _added_columns(name, artefact, artefacts))
            (n_rows[name],) = connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0]
            if n_rows[name] != expected:
                raise ValueError(f"table {name} has {n_rows[name]} rows, its files have {expected}")
            progress.update(1)
    return n_rows


def _added_columns(name: str, artefact: Artefact, artefacts: list[Artefact]) -> dict[str, float | int | None]:
    """Columns that the database has and the file has not."""
    if name == "training_history":
        assert artefact.size is not None
        return {"size": artefact.size}
    if name == "sae_metrics":
        trained = next(a.manifest for a in artefacts if (a.stage, a.size) == ("sae", artefact.size))
        return {"seconds": trained.seconds} | {name: trained.metadata.get(name) for name in MIXING}
    return {}


def lineage(artefacts: list[Artefact]) -> pl.DataFrame:
    """Where every artefact comes from (table `lineage`), from the manifests."""
    rows = [
        {
            "stage": artefact.stage,
            "size": artefact.size,
            "code_version": artefact.manifest.code_version,
            "data_version": artefact.manifest.data_version,
            "study_digest": artefact.manifest.study_digest,
            "started": datetime.fromisoformat(artefact.manifest.started).astimezone(UTC).replace(tzinfo=None),
            "seconds": artefact.manifest.seconds,
        }
        for artefact in artefacts
    ]
    return conform("lineage", pl.DataFrame(rows, schema=empty("lineage").schema))


def _create(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    table = TABLES[name]
    columns = ", ".join(
        f"{column} {sql_type(dtype)}{'' if table.schema.columns[column].nullable else ' NOT NULL'}"
        for column, dtype in polars_schema(name).items()
    )
    connection.execute(f"CREATE TABLE {name} ({columns})").fetchall()
    connection.execute(f"COMMENT ON TABLE {name} IS {sql_text(table.description)}").fetchall()
    for column, spec in table.schema.columns.items():
        connection.execute(f"COMMENT ON COLUMN {name}.{column} IS {sql_text(spec.description or '')}").fetchall()


def _insert_file(connection: duckdb.DuckDBPyConnection, name: str, path: Path, added: dict[str, float | int | None]) -> None:
    columns = "".join(f", {'NULL' if value is None else value} AS {column}" for column, value in added.items())
    query = f"INSERT INTO {name} BY NAME SELECT *{columns} FROM read_parquet($path)"
    connection.execute(query, {"path": str(path)}).fetchall()


def _insert_frame(connection: duckdb.DuckDBPyConnection, name: str, frame: pl.DataFrame) -> int:
    connection.register("incoming", frame.to_arrow())
    connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM incoming").fetchall()
    connection.unregister("incoming")
    return len(frame)


def sql_type(dtype: Any) -> str:
    """DuckDB's name of a polars type."""
    if isinstance(dtype, pl.List):
        return sql_type(dtype.inner) + "[]"
    return _SQL_TYPES[dtype if isinstance(dtype, type) else type(dtype)]


def _swap(scratch: Path, target: Path) -> None:
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(target)
