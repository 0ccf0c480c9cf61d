"""What the main run already says about the paper's claims."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, schema_check
from resources.store import Store

READS = ("sae_metrics", "explanations", "specificity_scores", "steering_evals")


@stage_asset(kinds={"polars", "parquet"}, checks={"schema": SCHEMA})
def main_results(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """Reconstruction, specificity, explanations and steering of the main run as measurements, each beside its control."""
    from sae_pipeline.language_model.origin import takes_images
    from sae_pipeline.survey.main_results import build_main_results

    artifacts, study = store.artifacts, store.study
    folders = {stage: {size: artifacts.path(stage, size) for size in study.sae.sizes} for stage in READS}

    def build(work: Path):
        return build_main_results(folders, takes_images(study.model), work)

    yield from publish(
        context, artifacts, "main_results", build, checks={"schema": lambda work: schema_check(work, "main_results")},
        force=config.force, headline=("n_measurements",),
    )  # fmt: skip
