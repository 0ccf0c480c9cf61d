"""Verdicts of blocking checks, and the check that every stage has: its tables follow their schemas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg


@dataclass(frozen=True)
class Verdict:
    """Passed or not, one clause that says why not, and metadata for the check's page."""

    passed: bool
    summary: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def tables_follow_schemas(tables: Mapping[str, str]) -> Callable[[Path], Verdict]:
    """A check that `{file name: table name}` in a folder follow `sae_pipeline.tables.schemas`."""

    def check(folder: Path) -> Verdict:
        import pandera.errors
        import polars as pl

        from sae_pipeline.tables import schemas

        rows: dict[str, Any] = {}
        for file, table in tables.items():
            frame = pl.read_parquet(folder / file)
            try:
                schemas.check(table, frame)
            except pandera.errors.SchemaErrors as error:
                cases = error.failure_cases
                summary = f"{file} breaks the schema of {table} in {len(cases)} cases"
                sample = dg.MetadataValue.md(f"```\n{cases.head(10)}\n```")
                return Verdict(False, summary, {"table": table, "n_failures": len(cases), "sample": sample})
            rows[f"n_rows_{table}"] = frame.height
        return Verdict(True, metadata=rows)

    return check
