"""What features contribute to the model's choice between two next tokens, by gradient and by switching them off."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store

N_RECOMPUTED = 8


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={
        "schema": SCHEMA,
        "ablations": f"{N_RECOMPUTED} effects of ablation equal those of reconstructions with and without the feature",
    },
)  # fmt: skip
def attribution(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Attribution against ablation over committed prompts that the model gets right, with activation as the control."""
    from sae_pipeline.survey.attribution.build import build_attribution
    from sae_pipeline.survey.attribution.measure import FIGURE

    study, artifacts = store.study, store.artifacts
    size, bos = max(study.sae.sizes), study.corpus.bos == "prepend"
    sae, examples = artifacts.path("sae", size), artifacts.path("feature_stats", size) / "feature_examples.parquet"

    def load():
        with compute.lease(context.log.info) as device:
            # In bfloat16 logits have steps of about 0.1: most effects of one feature would be rounded away.
            return language_model.load(study, device, dtype="float32")

    yield from publish(
        context, artifacts, "attribution",
        lambda work: build_attribution(load(), sae, examples, study.survey.attribution, bos, work),
        checks={
            "schema": lambda work: schema_check(work, "attribution"),
            "ablations": lambda work: ablations_recomputed(work, load(), sae, bos),
        },
        force=config.force, headline=("n_measured", "attribution_ablation_correlation"),
        show=lambda work, _: {"scatter": picture((work / f"{FIGURE}.light.png").read_bytes())},
    )  # fmt: skip


def ablations_recomputed(folder: Path, lm, sae_folder: Path, bos: bool) -> Verdict:
    """The largest stored effects by another code path: the difference of two reconstructions leaves the activation."""
    import polars as pl
    import torch

    from sae_pipeline.sae.autoencoder import SparseAutoencoder

    sae = SparseAutoencoder.load(sae_folder)
    prompts = pl.read_parquet(folder / "attribution_prompts.parquet").select("prompt_id", "prompt", "target", "baseline")
    stored = pl.read_parquet(folder / "attribution_features.parquet").drop_nulls("ablation").join(prompts, on="prompt_id")
    worst = 0.0
    for row in stored.sort(pl.col("ablation").abs(), descending=True).head(N_RECOMPUTED).iter_rows(named=True):
        ids_1T = torch.tensor([lm.tokenize(row["prompt"], bos)])
        pair = [lm.tokenize(row[name], bos=False)[0] for name in ("target", "baseline")]
        r_TD = lm.residual(ids_1T)[0].float().cpu()
        with_ = sae.encode_sparse(r_TD)
        keep_P = ~((with_.token == row["position"]) & (with_.feature == row["feature"]))
        without = type(with_)(with_.offsets, with_.feature, with_.value * keep_P, with_.frame)
        both = torch.stack([r_TD, r_TD - sae.decode_sparse(with_) + sae.decode_sparse(without)])
        logits_2V = lm.logits_from(both, ids_1T.expand(2, -1))[:, -1].float()
        effect_2 = logits_2V[:, pair[0]] - logits_2V[:, pair[1]]
        worst = max(worst, abs(float(effect_2[0] - effect_2[1]) - row["ablation"]))
    return Verdict(worst < 1e-2, f"effects differ by up to {worst:.2g} logits", {"largest_difference": worst})
