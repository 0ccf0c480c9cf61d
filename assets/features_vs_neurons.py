"""Whether features are more than neurons by another name."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, size_of, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store

if TYPE_CHECKING:
    from sae_pipeline.study_survey import FeaturesVsNeurons

UPSTREAM = ("corpus", "activations", "sae", "feature_stats", "explanations", "specificity_scores")
N_RECOMPUTED = 4  # features


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={
        "schema": SCHEMA,
        "recomputed": f"the best dimension's correlation of {N_RECOMPUTED} features equals that of whole columns by NumPy",
    },
)  # fmt: skip
def features_vs_neurons(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Correlation of features with every MLP neuron up to the hook and with residual dimensions, beside random directions.

    And four clear features looked at by activation, what a threshold on weak activations gains, and how often features fire on
    independent text. Not part of the main run: `sae-pipeline run --job survey`.
    """
    from sae_pipeline.survey.features_vs_neurons.build import build_features_vs_neurons

    study, size, artifacts = store.study, size_of(context, "features_vs_neurons"), store.artifacts
    assert size is not None
    folders = {stage: artifacts.path(stage, None if stage in ("corpus", "activations") else size) for stage in UPSTREAM}

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            model = language_model.load(study, device)
            return build_features_vs_neurons(folders, model, study.score, study.survey.features_vs_neurons, size, work)

    yield from publish(
        context, artifacts, "features_vs_neurons", build,
        checks={
            "schema": lambda work: schema_check(work, "features_vs_neurons"),
            "recomputed": lambda work: correlations_recomputed(work, folders, study.survey.features_vs_neurons),
        },
        force=config.force,
        show=lambda work, _: {
            "correlations": picture((work / "neuron_correlations.light.png").read_bytes()),
            "thresholds": picture((work / "activation_thresholds.light.png").read_bytes()),
        },
        headline=("low_neuron_correlation_share", "sensitivity_on_independent_text"),
    )  # fmt: skip


def correlations_recomputed(folder: Path, folders: dict[str, Path], settings: "FeaturesVsNeurons") -> Verdict:
    """From the stored activations and the sorted cache: another way than the pass over tokens that made the table."""
    import numpy as np
    import polars as pl
    import torch

    from sae_pipeline.activations.reader import KEEP, ActivationReader
    from sae_pipeline.features.sparse import SparseActivations
    from sae_pipeline.survey.features_vs_neurons.correlate import some_blocks

    reader = ActivationReader.open(folders["activations"])
    blocks = torch.cat([some_blocks(reader, split, settings.n_tokens // 2, settings.seed) for split in ("train", "held_out")])
    places = (blocks[:, None] * reader.context + torch.arange(reader.context))[reader.reason_BT[blocks] == KEEP]
    token_N = places.sort().values
    r_ND = reader.gather(token_N)
    cached = [
        SparseActivations.open(folders["feature_stats"] / f"activations_{split}.parquet") for split in ("train", "held_out")
    ]
    rows = pl.read_parquet(folder / "neuron_correlations.parquet").filter(unit="sae_feature")
    worst = 0.0
    for row in rows.sample(min(N_RECOMPUTED, rows.height), seed=0).iter_rows(named=True):
        f_N = np.zeros(len(token_N))
        for each in cached:
            token_index, value = each.of(row["feature"])
            at = np.searchsorted(token_N.numpy(), token_index).clip(max=len(token_N) - 1)
            here = token_N.numpy()[at] == token_index
            f_N[at[here]] = value[here]
        worst = max(worst, abs(np.corrcoef(f_N, r_ND[:, row["dimension"]].double().numpy())[0, 1] - row["r_dimension"]))
    return Verdict(worst < 1e-3, f"correlations differ by {worst:.2g}", {"n_tokens": len(token_N), "difference": worst})
