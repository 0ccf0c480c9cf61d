"""Concepts looked for among the features by five methods, and what the finds are worth beside random directions."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store


@stage_asset(
    kinds={"pytorch", "scikitlearn", "parquet"}, pool="gpu",
    checks={"schema": SCHEMA, "verdicts": "every verdict follows from the numbers beside it, one per concept, beside one null"},
)  # fmt: skip
def concept_search(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Twelve families of concepts and single words, searched by one prompt, prompt sets, geometry, attribution, classifier."""
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.survey.search.build import Sources, build_concept_search

    study, artifacts = store.study, store.artifacts
    size = max(study.sae.sizes)

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            lm = language_model.load(study, device, dtype="float32")
            sources = Sources(
                lm, CorpusReader.open(artifacts.path("corpus")), ActivationReader.open(artifacts.path("activations"), lm),
                artifacts.path("sae", size), artifacts.path("feature_stats", size),
            )  # fmt: skip
            return build_concept_search(sources, study.survey.concept_search, study.corpus.bos == "prepend", work)

    yield from publish(
        context, artifacts, "concept_search", build,
        checks={"schema": lambda work: schema_check(work, "concept_search"), "verdicts": verdicts_follow},
        force=config.force, show=lambda work, _: {"families": picture((work / "concept_families.light.png").read_bytes())},
        headline=("n_concepts", "safety_families_found"),
    )  # fmt: skip


def verdicts_follow(folder: Path) -> Verdict:
    """Recompute every verdict from its row; each concept has exactly one choice of method, and one null."""
    import polars as pl

    rows = pl.read_parquet(folder / "concept_search_results.parquet")
    found = (pl.col("auroc") >= 0.75) & (pl.col("difference_low") > 0)
    expected = pl.when(pl.col("probe_auroc") < 0.75).then(pl.lit("not testable"))
    expected = expected.when(found).then(pl.lit("found")).otherwise(pl.lit("not found"))
    wrong = rows.filter(pl.col("verdict") != expected)
    choices = rows.group_by("concept").agg(pl.col("is_choice").sum())["is_choice"]
    if not (choices == 1).all():
        return Verdict(False, "a concept has no choice of method, or several")
    if not (rows.group_by("concept").agg(pl.struct("null_method", "null_auroc").n_unique().alias("n"))["n"] == 1).all():
        return Verdict(False, "a concept is held against several nulls")
    return Verdict(wrong.is_empty(), f"{wrong.height} verdicts do not follow from their numbers", {"n_rows": rows.height})
