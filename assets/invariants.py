"""What must hold exactly, measured on the study's own artefacts."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={
        "schema": SCHEMA,
        "samples": "the share of samples inside their interval is that which SQL finds in the tables",
    },
)  # fmt: skip
def invariants(context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute):
    """Gradients of the paper's loss, scale, schedules, batch mixing, decomposition, stored activations, intervals, clamps.

    Not part of the main run: `sae-pipeline run --job survey`. Every number stands beside a control that must break it.
    """
    from sae_pipeline.survey.invariants.build import build_invariants

    study, artifacts = store.study, store.artifacts
    saes = {size: artifacts.path("sae", size) for size in study.sae.sizes}
    features = {size: artifacts.path("feature_stats", size) for size in study.sae.sizes}

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            model = language_model.load(study, device)
            corpus, activations = artifacts.path("corpus"), artifacts.path("activations")
            return build_invariants(corpus, activations, saes, features, model, study.survey.invariants, work)

    yield from publish(
        context, artifacts, "invariants", build,
        checks={
            "schema": lambda work: schema_check(work, "invariants"),
            "samples": lambda work: samples_recounted(work, features),
        },
        force=config.force, headline=("loss_gradient_error", "clamp_error"),
    )  # fmt: skip


def samples_recounted(folder: Path, feature_stats: dict[int, Path]) -> Verdict:
    """The same share, by SQL over the published tables."""
    import duckdb
    import polars as pl

    inside = total = 0
    for path in feature_stats.values():
        query = """SELECT count(*), count(*) FILTER (WHERE activation > 0 AND (interval - 1) * f.max_activation < 10 * activation
            AND (10 * activation <= interval * f.max_activation OR (interval = 10 AND split = 'held_out')))
            FROM (SELECT feature, interval, split, activation::DOUBLE AS activation FROM read_parquet($e) WHERE kind = 'interval')
            JOIN read_parquet($f) f USING (feature) WHERE f.alive"""
        files = {"e": str(path / "feature_examples.parquet"), "f": str(path / "features.parquet")}
        with duckdb.connect() as connection:
            counted, fitting = connection.execute(query, files).fetchall()[0]
        total, inside = total + counted, inside + fitting
    row = pl.read_parquet(folder / "measurements.parquet").filter(measurement="samples_inside_their_interval").row(0, named=True)
    found = (row["value"] or 0.0) * row["n_attempted"]
    return Verdict(abs(found - inside) < 0.5, f"{found:.0f} samples inside, SQL counts {inside}", {"n_samples": total})
