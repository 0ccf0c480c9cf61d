"""The study on one page."""

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from resources.store import Store


@stage_asset(kinds={"html"}, checks={})
def report(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """One self-contained HTML page: results by size beside their controls, figures, example features, steered text.

    It requests nothing from anywhere, so that it can be mailed and opened offline.
    """
    from sae_pipeline.report.build import REPORT, build_report

    artifacts = store.artifacts
    database, comparison = artifacts.root / "analysis.duckdb", artifacts.path("size_comparison")
    yield from publish(
        context, artifacts, "report", lambda work: build_report(database, comparison, work), checks={}, force=config.force,
        show=lambda folder, _: {"open": dg.MetadataValue.url((folder / REPORT).resolve().as_uri())},
        headline=("steerable_features",),
    )  # fmt: skip
