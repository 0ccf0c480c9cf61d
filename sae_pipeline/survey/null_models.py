"""The stage `null_models`: what dictionaries reach that learned nothing of the model, through the scores of the real ones.

Four nulls stand beside an SAE trained by the same recipe: one whose decoder stays as it was drawn, principal components, random
directions, and an SAE of the re-initialised model. Planted features say what each architecture recovers where truth is known.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.plots.nulls import draw_null_models
from sae_pipeline.resampling import draws, interval
from sae_pipeline.sae.source import PermutedStream
from sae_pipeline.sae.splice import SpliceResult
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey_laws import NullModels
from sae_pipeline.survey.experiments.arms import Arm, train_arms
from sae_pipeline.survey.experiments.held_out import ByDocument, SaeDictionary, measure
from sae_pipeline.survey.experiments.null_scores import (
    FROZEN,
    PCA,
    RANDOM,
    RANDOM_MODEL,
    TRAINED,
    arms_to_score,
    score_units,
)
from sae_pipeline.survey.experiments.null_splices import splices, splices_measured
from sae_pipeline.survey.experiments.synthetic import recovery
from sae_pipeline.survey.experiments.untrained import PrincipalComponents, RandomDirections
from sae_pipeline.survey.measurement import write_measurements
from sae_pipeline.survey.null_measurements import FIGURE, reconstruction_measured, recovery_measured, scores_measured
from sae_pipeline.tables.schemas import conform

RECOVERY, RECONSTRUCTION, SCORES = "synthetic_recovery.parquet", "null_model_reconstruction.parquet", "null_model_scores.parquet"
SCRATCH = "arms"
BATCH = 512
SPLICED = ("n_tokens_spliced", "ce_recovered_zero", "ce_recovered_mean", "delta_ce", "kl")


def build_null_models(
    *, corpus: Path, activations: Path, random_model: Path, language_model: LanguageModel, n_features: int, k: int,
    settings: NullModels, work: Path, device: str = "cpu",
) -> Outcome:  # fmt: skip
    """Write the three tables, the figure and the measurements. Finished SAEs in `work` survive a kill."""
    reader = ActivationReader.open(activations)
    scratch = work / SCRATCH
    recovered = conform(
        "synthetic_recovery",
        recovery(range(settings.n_seeds), settings.synthetic_steps, settings.synthetic_learning_rate, scratch),
    )
    recovered.write_parquet(work / RECOVERY)

    n_steps = max(1, int(len(reader.token_index("train")) * settings.epochs) // BATCH)
    specs = [
        Arm(f"{name}-{seed}", "batch_topk", n_features, n_steps, settings.learning_rate, k, seed, name == "frozen")
        for seed in range(settings.n_seeds) for name in ("trained", "frozen")
    ]  # fmt: skip
    saes = train_arms(
        specs, lambda: PermutedStream(reader, BATCH, 1), BATCH, reader.mean_D, reader.scale, scratch / "real", device
    )
    components = PrincipalComponents.fit(reader, settings.n_tokens_pca, min(k, reader.d_model))
    untrained = {
        PCA: components, RANDOM: RandomDirections.draw(n_features, reader.d_model, min(k, reader.d_model), settings.seed),
    }  # fmt: skip
    dictionaries = {name: SaeDictionary(sae) for name, sae in saes.items()}
    sums = measure(reader, {**dictionaries, **untrained}, settings.n_tokens_held_out)
    one_seed = {TRAINED: dictionaries["trained-0"], FROZEN: dictionaries["frozen-0"], **untrained}
    spliced = splices(CorpusReader.open(corpus), reader, language_model, one_seed)
    reconstruction = _reconstruction(sums, spliced, settings, random_model)
    reconstruction.write_parquet(work / RECONSTRUCTION)

    index = RuleIndex(TokenTable.of(CorpusReader.open(corpus), reader))
    units = arms_to_score(reader, saes["trained-0"], saes["frozen-0"], components, random_model, settings.n_scored, settings.seed)
    scores = conform("null_model_scores", score_units(index, units, settings.seed))
    scores.write_parquet(work / SCORES)

    for name, png in draw_null_models(recovered, reconstruction, scores).items():
        (work / name).write_bytes(png)
    measurements = [
        recovery_measured(recovered, settings),
        *reconstruction_measured(sums, settings),
        *splices_measured(spliced.pop(TRAINED), spliced, settings.seed, FIGURE),
        *scores_measured(scores, settings),
    ]
    write_measurements(work, "null_models", measurements)
    shutil.rmtree(scratch)
    return Outcome({each.measurement: each.value for each in measurements} | {"n_steps": n_steps})


def _reconstruction(sums: ByDocument, spliced: dict[str, SpliceResult], settings: NullModels, random_model: Path) -> pl.DataFrame:
    """Table `null_model_reconstruction`: one row per dictionary; of cross-entropies, the first seed's."""
    weight_RK = draws(len(sums.n_K), settings.seed)
    rows: list[dict[str, Any]] = []
    for arm in sums.arms:
        low, high = interval(sums.explained_variance(arm, weight_RK))
        kind, _, seed = arm.partition("-")
        name = {"trained": TRAINED, "frozen": FROZEN}.get(kind, arm)
        kept = spliced[name].columns() if seed in ("", "0") else {}
        rows.append({
            "arm": name, "seed": int(seed) if seed else settings.seed,
            "explained_variance": float(sums.explained_variance(arm)[0]), "low": low, "high": high, "l0": sums.l0(arm),
            "n_alive": sums.alive_A[sums.at(arm)], "n_tokens": int(sums.n_K.sum()), "n_documents": len(sums.n_K),
            **{column: kept.get(column) for column in SPLICED},
        })  # fmt: skip
    facts = json.loads((random_model / "manifest.json").read_text(encoding="utf-8"))["metadata"]
    if facts["n_tokens"]:
        # On activations of its own, which are not stored: no interval by document.
        rows.append({
            "arm": RANDOM_MODEL, "seed": settings.seed, "explained_variance": facts["explained_variance"], "low": None,
            "high": None, "l0": facts["l0"], "n_alive": facts["n_live"], "n_tokens": None, "n_documents": None,
            **dict.fromkeys(SPLICED),
        })  # fmt: skip
    return conform("null_model_reconstruction", pl.DataFrame(rows))
