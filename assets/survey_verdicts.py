"""The paper's results, row by row."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.store import Store


@stage_asset(
    kinds={"polars", "parquet"}, checks={"schema": SCHEMA, "complete": "every row of the checklist has its verdict"}
)  # fmt: skip
def survey_verdicts(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """Claim, number, control, threshold and verdict for each of the 72 results; the verdict follows from the numbers by code."""
    from sae_pipeline.stages import STAGES, sizes_of
    from sae_pipeline.survey.build_verdicts import build_verdicts

    artifacts = store.artifacts
    upstream = STAGES["survey_verdicts"].upstream
    folders = [artifacts.path(stage, size) for stage in upstream for size in sizes_of(store.study, stage)]
    yield from publish(
        context, artifacts, "survey_verdicts", lambda work: build_verdicts(folders, work),
        checks={"schema": lambda work: schema_check(work, "survey_verdicts"), "complete": complete},
        force=config.force, headline=("reproduced", "not_reproduced", "not_testable", "n_with_control"),
    )  # fmt: skip


def complete(folder: Path) -> Verdict:
    """Rows 1 to the last, each once."""
    import polars as pl

    from sae_pipeline.survey.build_verdicts import FILE
    from sae_pipeline.survey.checklist import read_checklist

    wanted = [row.row for section in read_checklist() for row in section.rows]
    found = pl.read_parquet(folder / FILE)["row"].to_list()
    return Verdict(found == wanted, f"rows {sorted(set(wanted) ^ set(found))} are wrong", {"n_rows": len(found)})
