"""Artefacts that hold the synthetic tables, published as the stages would."""

from pathlib import Path

import polars as pl

from sae_pipeline.stages import STAGES, sizes_of
from sae_pipeline.store import ArtifactStore, Outcome
from sae_pipeline.tables.schemas import TABLES

ADDED_IN_DATABASE = {"training_history": "size", "sae_metrics": "seconds"}


def publish(store: ArtifactStore, tables: dict[str, pl.DataFrame]) -> None:
    """Every upstream artefact, each with the rows of its size."""
    for stage in (*STAGES["analysis_tables"].upstream, *STAGES["analysis_tables"].optional):
        for size in sizes_of(store.study, stage):

            def write(work: Path, stage=stage, size=size) -> Outcome:
                (work / "marker").write_text(f"{stage} {size}", encoding="utf-8")
                for name, table in TABLES.items():
                    if table.file.startswith(f"{stage}/") and name in tables:
                        rows = tables[name] if size is None else tables[name].filter(pl.col("size") == size)
                        rows.drop(ADDED_IN_DATABASE.get(name, []), strict=False).write_parquet(work / Path(table.file).name)
                return Outcome()

            store.build(stage, size, write)
