"""Verdicts of blocking checks, and the check that most stages share: its tables follow their schemas."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

SCHEMA = "every table follows its documented schema (types, ranges, keys)"


@dataclass(frozen=True)
class Verdict:
    """Passed or not, one clause that says why not, and metadata for the check's page."""

    passed: bool
    summary: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def schema_check(folder: Path, stage: str) -> Verdict:
    """Hold every Parquet table of `stage` in `folder` to its pandera schema."""
    import pandera.errors

    from sae_pipeline.tables.columns import SPLITS
    from sae_pipeline.tables.files import RowsRepeat, check_file
    from sae_pipeline.tables.schemas import TABLES

    tables = [(table.name, Path(table.file).name) for table in TABLES.values() if Path(table.file).parts[0] == stage]
    if (folder / "measurements.parquet").is_file():  # of the survey's stages
        tables.append(("survey_measurements", "measurements.parquet"))
    files = [
        (name, file.replace("<split>", split))
        for name, file in tables
        for split in SPLITS
        if split == SPLITS[0] or "<split>" in file
    ]
    metadata: dict[str, Any] = {}
    for name, file in files:
        try:
            metadata[f"n_rows {file}"] = check_file(name, folder / file)
        except FileNotFoundError:
            return Verdict(False, f"{file} is missing")
        except RowsRepeat as error:
            return Verdict(False, str(error), {"table": name})
        except pandera.errors.SchemaErrors as error:
            cases = error.failure_cases
            sample = dg.MetadataValue.md(f"```\n{cases.head(10)}\n```")
            return Verdict(False, f"{file} breaks the schema of {name} in {len(cases)} cases", {"table": name, "sample": sample})
    return Verdict(True, metadata=metadata)
