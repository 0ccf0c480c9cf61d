"""Text generated while a feature is clamped, beside controls."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, size_of, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store

CONTROLS = ("baseline", "prompt_only", "random_direction", "random_feature")


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={"schema": SCHEMA, "controls": "unsteered text and every control are there for each steered feature"},
)  # fmt: skip
def steering_evals(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Neutral prompts completed with a feature clamped to multiples of its maximum: concept rate, fluency, sweet spot.

    The factor is chosen on half of the prompts and reported on the other half; a random feature, a random direction of equal norm
    and a prompt that asks for the concept go through the same choice.
    """
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.steering.evals import build_steering_evals

    study, size, artifacts = store.study, size_of(context, "steering_evals"), store.artifacts

    def build(work: Path):
        assert size is not None
        with compute.lease(context.log.info) as device:
            model = language_model.load(study, device)
            return build_steering_evals(
                model, CorpusReader.open(artifacts.path("corpus")), artifacts.path("feature_stats", size),
                artifacts.path("sae", size), study.steer, study.n_steered(size), size, size == max(study.sae.sizes), work,
            )  # fmt: skip

    yield from publish(
        context, artifacts, "steering_evals", build,
        checks={"schema": lambda work: schema_check(work, "steering_evals"), "controls": controls_present},
        force=config.force, show=lambda work, _: {"dose": picture(dose(work))},
        headline=("n_features_passing", "n_generated_tokens"),
    )  # fmt: skip


def controls_present(folder: Path) -> Verdict:
    """Every steered feature is scored beside unsteered text and every control, on the reporting half.

    A feature without concept terms (nothing in its train contexts stands out) has no prompt that could ask for its concept.
    """
    import polars as pl

    features = pl.read_parquet(folder / "steering_features.parquet", columns=["feature", "concept_terms"])
    named = set(features.filter(pl.col("concept_terms").list.len() > 0)["feature"])
    scores = pl.read_parquet(folder / "steering_scores.parquet").filter(pl.col("half") == "report", pl.col("n") > 0)
    lacking = [
        f"{control} of {feature}"
        for control in CONTROLS
        for feature in sorted(
            (named if control == "prompt_only" else set(features["feature"]))
            - set(scores.filter(pl.col("control") == control)["target_feature"])
        )
    ]
    return Verdict(not lacking, f"missing: {', '.join(lacking[:5])}", {"n_steered": features.height})


def dose(folder: Path) -> bytes:
    """Concept rate and fluency against the factor."""
    import polars as pl

    from sae_pipeline.plots.steering import dose_curve

    return dose_curve(pl.read_parquet(folder / "steering_scores.parquet"))
