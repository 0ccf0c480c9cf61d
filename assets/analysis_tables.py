"""All sizes in one database."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import Verdict
from resources.store import Store


@stage_asset(
    kinds={"duckdb"},
    checks={
        "every_size": "every SAE size of the study has its row in sae_metrics",
        "row_counts": "every table has as many rows as the Parquet files it was made from",
    },
)
def analysis_tables(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """`analysis.duckdb`: every table of every size, with views for the first questions (leaderboard, best_steerable ...).

    Rebuilt from Parquet in a scratch file and swapped, so that whoever has the old one open keeps it whole.
    """
    from sae_pipeline.tables.build import DATABASE, build_analysis_db

    artifacts = store.artifacts
    database, sizes = artifacts.root / DATABASE, store.study.sae.sizes
    yield from publish(
        context, artifacts, "analysis_tables", lambda work: build_analysis_db(artifacts, work),
        checks={
            "every_size": lambda _: every_size(database, sizes),
            "row_counts": lambda _: row_counts(database, artifacts.root, sizes, set(artifacts.optional("analysis_tables"))),
        },
        force=config.force, headline=("n_tables", "n_views", "megabytes"),
    )  # fmt: skip


def every_size(database: Path, sizes: list[int]) -> Verdict:
    """A size that is missing from the database would silently be missing from every comparison."""
    import duckdb

    with duckdb.connect(str(database), read_only=True) as connection:
        found = [size for (size,) in connection.execute("select size from sae_metrics order by size").fetchall()]
    return Verdict(found == sizes, f"sizes {found} instead of {sizes}", {"sizes": str(found)})


def row_counts(database: Path, root: Path, sizes: list[int], optional: set[str]) -> Verdict:
    """Rows of every table against those of its Parquet files. `optional`: the optional stages that went into the database."""
    import duckdb
    import pyarrow.parquet as pq

    from sae_pipeline.stages import STAGES
    from sae_pipeline.tables.schemas import TABLES

    left_out = set(STAGES["analysis_tables"].optional) - optional

    wrong, n_rows = [], 0
    with duckdb.connect(str(database), read_only=True) as connection:
        for table in TABLES.values():
            if not (table.in_database and table.file.endswith(".parquet")) or "<stage>" in table.file:
                continue
            files = {root / table.file.replace("<size>", str(size)) for size in sizes}
            absent = table.file.split("/")[0] in left_out
            wanted = 0 if absent else sum(pq.read_metadata(file).num_rows for file in files)
            (found,) = connection.execute(f'select count(*) from "{table.name}"').fetchone() or (0,)
            n_rows += found
            if found != wanted:
                wrong.append(f"{table.name} has {found} rows instead of {wanted}")
    return Verdict(not wrong, "; ".join(wrong), {"n_rows": n_rows})
