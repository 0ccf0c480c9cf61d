"""Features put into words."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.publishing import Rebuild, publish, size_of, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.judge import Judge
from resources.language_model import LanguageModel
from resources.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence


@stage_asset(
    kinds={"text", "parquet"},
    checks={"schema": SCHEMA, "coverage": "every live feature (or every feature that the study lists) has a row"},
)
def explanations(
    context: dg.AssetExecutionContext,
    config: Rebuild,
    store: Store,
    judge: Judge,
    language_model: LanguageModel,
    compute: Compute,
):
    """One English sentence per live feature, made from token statistics of train text without any language model.

    Judged by its rule on held-out tokens (precision, recall, F1, AUROC), beside shuffled rules, random directions, neurons and
    features of a re-initialized model.
    With `explain.method: llm` the judge's sentences stand beside these; the judge scores both by detection and fuzzing, and the
    SAE says whether features are active on texts that the judge writes from an explanation.
    """
    from functools import cache, partial

    from sae_pipeline.interpret.build_explanations import build_explanations

    study, size, artifacts = store.study, size_of(context, "explanations"), store.artifacts
    features = artifacts.path("feature_stats", size)

    @cache
    def reader():
        from sae_pipeline.interpret.read_texts import features_of_texts
        from sae_pipeline.sae.autoencoder import SparseAutoencoder

        device = compute.choose()
        sae = SparseAutoencoder.load(artifacts.path("sae", size), device.name)
        return partial(features_of_texts, language_model.load(study, device), sae, study.corpus.bos == "prepend")

    def features_of(texts: "Sequence[str]") -> list[set[int]]:
        # The device is not held while the judge is waited for.
        with compute.lease(context.log.info):
            return reader()(texts)

    def build(work: Path):
        assert size is not None
        with judge.open(artifacts, context.run.run_id) as asked:
            return build_explanations(
                size=size, explain=study.explain, score=study.score, corpus=artifacts.path("corpus"),
                activations=artifacts.path("activations"), feature_stats=features, work=work,
                random_model=artifacts.path("random_model"), judge=asked, features_of=features_of,
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
