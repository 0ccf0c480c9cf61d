"""Whether near features mean related things."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.store import Store


@stage_asset(
    kinds={"text", "parquet"},
    checks={"schema": SCHEMA, "strangers": "no stranger of a question is among its feature's stored neighbours"},
)  # fmt: skip
def neighbourhood_checks(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """Label similarity against decoder cosine, and the stranger among neighbours, each with labels dealt out as a control."""
    from sae_pipeline.survey.neighbourhood_checks import build_neighbourhood_checks

    artifacts, sizes = store.artifacts, store.study.sae.sizes

    yield from publish(
        context, artifacts, "neighbourhood_checks",
        lambda work: build_neighbourhood_checks(
            neighbourhoods=artifacts.path("neighbourhoods"), sae_folders={size: artifacts.path("sae", size) for size in sizes},
            explanations={size: artifacts.path("explanations", size) for size in sizes},
            settings=store.study.survey.neighbourhood_checks, work=work,
        ),
        checks={
            "schema": lambda work: schema_check(work, "neighbourhood_checks"),
            "strangers": lambda work: strangers_are_strange(work, artifacts.path("neighbourhoods")),
        },
        force=config.force, headline=tuple(f"odd_one_out_accuracy {size}" for size in sizes),
    )  # fmt: skip


def strangers_are_strange(folder: Path, neighbourhoods: Path) -> Verdict:
    """Every question against the published neighbours."""
    import polars as pl

    asked = pl.read_parquet(folder / "odd_one_out.parquet")
    near = pl.read_parquet(neighbourhoods / "feature_neighbours.parquet").filter(pl.col("size") == pl.col("neighbour_size"))
    wrong = asked.join(near, left_on=("size", "feature", "stranger"), right_on=("size", "feature", "neighbour"), how="inner")
    return Verdict(wrong.is_empty(), f"{wrong.height} strangers are neighbours", {"n_questions": asked.height})
