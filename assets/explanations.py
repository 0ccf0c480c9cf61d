"""Features put into words."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, size_of, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.judge import Judge
from resources.store import Store


@stage_asset(
    kinds={"text", "parquet"},
    checks={"schema": SCHEMA, "coverage": "every live feature (or every feature that the study lists) has a row"},
)
def explanations(context: dg.AssetExecutionContext, config: Rebuild, store: Store, judge: Judge):
    """One English sentence per live feature, made from token statistics of train text without any language model.

    Judged by its rule on held-out tokens (precision, recall, F1, AUROC), beside shuffled rules, random directions and neurons.
    With `explain.method: llm` the judge's sentences stand beside these, scored by detection and fuzzing.
    """
    from sae_pipeline.interpret.build_explanations import build_explanations

    study, size, artifacts = store.study, size_of(context, "explanations"), store.artifacts
    features = artifacts.path("feature_stats", size)

    def build(work: Path):
        assert size is not None
        with judge.open(artifacts, context.run.run_id) as asked:
            return build_explanations(
                size=size, explain=study.explain, score=study.score, corpus=artifacts.path("corpus"),
                activations=artifacts.path("activations"), feature_stats=features, work=work, judge=asked,
            )  # fmt: skip

    yield from publish(
        context, artifacts, "explanations", build,
        checks={
            "schema": lambda work: schema_check(work, "explanations"),
            "coverage": lambda work: coverage(work, features, study.explain.features),
        },
        force=config.force, headline=("n_features_explained",),
    )  # fmt: skip


def coverage(folder: Path, feature_stats: Path, listed: list[int] | None) -> Verdict:
    """Rows that could not be explained count when they say why in `status`; a missing row never does."""
    import polars as pl

    alive = set(pl.read_parquet(feature_stats / "features.parquet").filter("alive")["feature"])
    wanted = alive & set(listed) if listed else alive
    explained = pl.read_parquet(folder / "explanations.parquet").filter(pl.col("unit") == "sae_feature")
    missing = sorted(wanted - set(explained["feature"]))
    ok = explained.filter(pl.col("status") == "ok").height
    return Verdict(not missing, f"{len(missing)} live features without a row, such as {missing[:3]}", {"n_ok": ok})
