"""Token blocks to activations at the hook."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store


@stage_asset(
    kinds={"pytorch", "safetensors"}, pool="gpu",
    checks={
        "schema": SCHEMA,
        "finite": "no activation is NaN or infinite",
        "tokens_match_corpus": "the tokens beside the activations are those of the corpus, all of them, in order",
        "masked_fraction": "the share of masked tokens is below the study's bound",
    },
)  # fmt: skip
def activations(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Activations of the language model at the study's hook, in shards, with token mask, mean and scale.

    The forward pass stops at the hook. Position 0, special tokens, padding and massive activations are masked; the masked share
    is published by reason. A killed harvest resumes after its last complete shard.
    """
    from sae_pipeline.activations.build import build_activations

    study, folder = store.study, store.artifacts.path("corpus")

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            model = language_model.load(study, device)
            context.log.info(f"model in {model.dtype_reason}")
            return build_activations(folder, model, study.activations, study.metrics, work, study.model)

    yield from publish(
        context, store.artifacts, "activations", build,
        checks={
            "schema": lambda work: schema_check(work, "activations"),
            "finite": all_finite,
            "tokens_match_corpus": lambda work: tokens_match_corpus(work, folder),
            "masked_fraction": lambda work: masked_fraction(work, study.activations.max_masked_fraction),
        },
        force=config.force, show=lambda work, _: {"norms": picture(norms(work))}, headline=("n_tokens", "masked_fraction"),
    )  # fmt: skip


def all_finite(folder: Path) -> Verdict:
    """Every shard and every statistic."""
    import torch
    from safetensors.torch import load_file

    bad = []
    for file in [*sorted((folder / "shards").glob("*.safetensors")), folder / "statistics.safetensors"]:
        tensors = {name: tensor for name, tensor in load_file(file).items() if tensor.is_floating_point()}
        bad += [f"{file.name}:{name}" for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    return Verdict(not bad, f"not finite: {', '.join(bad[:5])}", {"n_not_finite": len(bad)})


def tokens_match_corpus(folder: Path, corpus_folder: Path) -> Verdict:
    """Token ids of the shards against the blocks of the corpus."""
    import numpy as np
    import torch

    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader

    wanted_BT = CorpusReader.open(corpus_folder).token_ids_BT
    found_BT = torch.cat([shard["token_ids_BT"] for shard in ActivationReader.open(folder).shards]).numpy()
    same = found_BT.shape == wanted_BT.shape and bool(np.array_equal(found_BT, wanted_BT))
    return Verdict(
        same, f"{found_BT.size} tokens against {wanted_BT.size} of the corpus, or other ids", {"n_tokens": found_BT.size}
    )


def masked_fraction(folder: Path, bound: float) -> Verdict:
    """All reasons and both splits together."""
    import polars as pl

    table = pl.read_parquet(folder / "masked_fraction.parquet")
    masked = table.filter(pl.col("reason") != "keep")["n_tokens"].sum()
    fraction = float(masked) / max(int(table["n_tokens"].sum()), 1)
    summary = f"{fraction:.1%} of the tokens are masked, more than activations.max_masked_fraction = {bound:.1%}"
    return Verdict(fraction <= bound, summary, {"fraction": fraction, "bound": bound})


def norms(folder: Path) -> bytes:
    """Histogram of raw norms with the mask's threshold."""
    import torch

    from sae_pipeline.activations.reader import KEEP, ActivationReader
    from sae_pipeline.plots.distributions import norm_histogram

    reader = ActivationReader.open(folder)
    norm_BT = torch.cat([shard["norm_BT"] for shard in reader.shards])
    masked_BT = reader.reason_BT != KEEP
    return norm_histogram(norm_BT.flatten().numpy(), masked_BT.flatten().numpy(), reader.threshold_norm)
