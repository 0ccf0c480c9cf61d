"""Held-out quality of one SAE."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, size_of, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={"schema": SCHEMA, "one_row": "one row for this size, and one for every corpus source"},
)  # fmt: skip
def sae_metrics(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """L0, explained variance (masked, unmasked, standardized, per source), cross-entropy recovered, KL, alive and dead features.

    Everything on held-out documents. Cross-entropy is measured with the reconstruction spliced in at unmasked positions, beside
    zero and mean ablation of the same positions.
    """
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.sae.autoencoder import SparseAutoencoder
    from sae_pipeline.sae.evaluate import build_sae_metrics

    study, size, artifacts = store.study, size_of(context, "sae_metrics"), store.artifacts
    folders = {name: artifacts.path(name) for name in ("corpus", "activations")}

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            model = language_model.load(study, device)
            sae = SparseAutoencoder.load(artifacts.path("sae", size), device.name)
            corpus, activations = CorpusReader.open(folders["corpus"]), ActivationReader.open(folders["activations"])
            return build_sae_metrics(corpus, activations, sae, model, work)

    yield from publish(
        context, artifacts, "sae_metrics", build,
        checks={
            "schema": lambda work: schema_check(work, "sae_metrics"),
            "one_row": lambda work: one_row(work, size, folders["corpus"]),
        },
        force=config.force, headline=("l0", "explained_variance", "ce_recovered_zero", "alive_fraction"),
    )  # fmt: skip


def one_row(folder: Path, size: int | None, corpus_folder: Path) -> Verdict:
    """The tables are about this size, and no source is forgotten."""
    import polars as pl

    sizes = pl.read_parquet(folder / "sae_metrics.parquet")["size"].to_list()
    measured = set(pl.read_parquet(folder / "sae_metrics_by_source.parquet")["source"])
    wanted = set(pl.read_parquet(corpus_folder / "corpus_sources.parquet")["source"])
    summary = f"sizes {sizes} instead of {[size]}" if sizes != [size] else f"sources missing: {sorted(wanted - measured)}"
    return Verdict(sizes == [size] and measured >= wanted, summary)
