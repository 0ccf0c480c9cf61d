"""What is known about every feature of one SAE without a language-model judge."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, size_of, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store

N_RECOMPUTED = 256  # tokens


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={
        "schema": SCHEMA,
        "examples": "every live feature has examples",
        "recomputed": f"stored activations equal those that the SAE gives now, on {N_RECOMPUTED} tokens",
    },
)  # fmt: skip
def feature_stats(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Density, maximum, activation intervals, examples and logit effects of every feature; train and held out kept apart.

    One pass over the activations fills a sparse cache sorted by feature; no array of size tokens x features is ever made.
    """
    from sae_pipeline.features.build import build_feature_stats

    study, size, artifacts = store.study, size_of(context, "feature_stats"), store.artifacts
    corpus, activations, sae = artifacts.path("corpus"), artifacts.path("activations"), artifacts.path("sae", size)

    def build(work: Path):
        assert size is not None
        with compute.lease(context.log.info) as device:
            model = language_model.load(study, device)
            return build_feature_stats(corpus, activations, sae, model.unembedding_DV, study.features, size, work)

    yield from publish(
        context, artifacts, "feature_stats", build,
        checks={
            "schema": lambda work: schema_check(work, "feature_stats"),
            "examples": live_features_have_examples,
            "recomputed": lambda work: activations_recomputed(work, activations, sae),
        },
        force=config.force, show=lambda work, _: {"densities": picture(densities(work))}, headline=("n_alive", "median_density"),
    )  # fmt: skip


def live_features_have_examples(folder: Path) -> Verdict:
    """Alive in held-out text means at least one stored held-out activation, hence an example."""
    import polars as pl

    alive = pl.read_parquet(folder / "features.parquet").filter("alive")["feature"]
    shown = pl.read_parquet(folder / "feature_examples.parquet", columns=["feature"])["feature"].unique()
    without = sorted(set(alive) - set(shown))
    return Verdict(not without, f"{len(without)} live features without examples, such as {without[:3]}", {"n_alive": len(alive)})


def activations_recomputed(folder: Path, activations_folder: Path, sae_folder: Path) -> Verdict:
    """Encode evenly spread held-out tokens again and compare with the cache."""
    import numpy as np
    import torch

    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.features.sparse import SparseActivations
    from sae_pipeline.sae.autoencoder import SparseAutoencoder

    reader, sae = ActivationReader.open(activations_folder), SparseAutoencoder.load(sae_folder)
    stored = SparseActivations.open(folder / "activations_held_out.parquet")
    tokens = reader.token_index("held_out")
    tokens = tokens[torch.linspace(0, len(tokens) - 1, min(N_RECOMPUTED, len(tokens))).long()].unique()
    codes = sae.encode_sparse(reader.gather(tokens))
    expected_NF = np.zeros((len(tokens), sae.n_features), np.float32)
    expected_NF[codes.token.numpy(), codes.feature.numpy()] = codes.value.numpy()
    feature = np.repeat(np.arange(stored.n_units), stored.count_U)
    row = np.searchsorted(tokens.numpy(), stored.token_index).clip(max=len(tokens) - 1)
    chosen = tokens.numpy()[row] == stored.token_index
    found_NF = np.zeros_like(expected_NF)
    found_NF[row[chosen], feature[chosen]] = stored.value[chosen]
    # A value at the very threshold may fall on either side when other batch shapes round differently.
    error = float(np.quantile(np.abs(found_NF - expected_NF).max(axis=1), 0.98))
    bound = 1e-3 * max(1.0, float(expected_NF.max()))
    return Verdict(error <= bound, f"stored activations differ by {error:.2g}", {"error": error, "n_tokens": len(tokens)})


def densities(folder: Path) -> bytes:
    """Histogram of densities."""
    import polars as pl

    from sae_pipeline.plots.distributions import density_histogram

    return density_histogram(pl.read_parquet(folder / "features.parquet", columns=["size", "density", "alive"]))
