"""The stage `scaling_laws`: features x steps, learning rates, and two architectures at equal L0, from the cached activations.

All SAEs learn from one stream at batches of at most 512, see no token twice, and are measured on the same held-out tokens.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.plots.scaling import draw_scaling
from sae_pipeline.resampling import draws
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.source import PermutedStream
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey_laws import ScalingLaws
from sae_pipeline.survey.experiments.arms import Arm, train_arms
from sae_pipeline.survey.experiments.held_out import ByDocument, SaeDictionary, measure
from sae_pipeline.survey.measurement import write_measurements
from sae_pipeline.survey.scaling import sweep
from sae_pipeline.survey.scaling.equal_l0 import equal_l0_measured
from sae_pipeline.survey.scaling.fits import flops
from sae_pipeline.survey.scaling.laws import fit_laws, law_table, resampled
from sae_pipeline.survey.scaling.measured import laws_measured, proxy_measured
from sae_pipeline.survey.scaling.proxy import rule_quality
from sae_pipeline.tables.schemas import conform

RUNS, LAWS = "scaling_runs.parquet", "scaling_laws.parquet"
SCRATCH = "arms"
N_RESAMPLES = 400  # of the laws: each one fits them all anew


def build_scaling_laws(
    *, corpus: Path, activations: Path, k: int, settings: ScalingLaws, work: Path, device: str = "cpu"
) -> Outcome:
    """Write both tables, the figures and the measurements. Finished SAEs in `work` survive a kill."""
    reader = ActivationReader.open(activations)
    sweep.check_budget(settings, len(reader.token_index("train")))

    def trained(arms: Sequence[Arm]) -> dict[str, SparseAutoencoder]:
        return train_arms(
            arms, lambda: PermutedStream(reader, settings.batch, 2 * settings.seed + 1), settings.batch, reader.mean_D,
            reader.scale, work / SCRATCH, device,
        )  # fmt: skip

    def measured(saes: dict[str, SparseAutoencoder]) -> ByDocument:
        return measure(reader, {name: SaeDictionary(sae) for name, sae in saes.items()}, settings.n_tokens_held_out)

    grid = sweep.grid(settings, k)
    saes: dict[str, SparseAutoencoder] = {}
    for size in settings.sizes:
        saes |= trained([arm for arm in grid if arm.n_features == size])
    grid_sums = measured(saes)
    runs = {(arm.n_features, arm.n_steps): float(grid_sums.loss(arm.name)[0]) for arm in grid}

    rate_arms = sweep.rate_arms(settings, runs, k)
    rate_saes: dict[str, SparseAutoencoder] = {}
    for arms in rate_arms.values():
        rate_saes |= trained(arms)
    rate_sums = measured(rate_saes)
    dense = sweep.dense_arms(settings)
    dense_saes = trained(dense)
    dense_sums = measured(dense_saes)
    matched = sweep.matched_arms(settings, [dense_sums.l0(arm.name) for arm in dense])
    pair_sums = measured(dense_saes | trained(matched))

    index = RuleIndex(TokenTable.of(CorpusReader.open(corpus), reader))
    quality = rule_quality(index, reader, saes, settings.n_proxy_features, settings.n_proxy_tokens, settings.seed)

    d_model = reader.d_model
    rates = {
        budget: {arm.learning_rate: float(rate_sums.loss(arm.name)[0]) for arm in arms} for budget, arms in rate_arms.items()
    }
    laws = fit_laws(runs, rates, settings, d_model)
    weight_RK = draws(len(grid_sums.n_K), settings.seed, N_RESAMPLES)
    resamples = resampled(
        {(arm.n_features, arm.n_steps): grid_sums.loss(arm.name, weight_RK) for arm in grid},
        {
            budget: {arm.learning_rate: rate_sums.loss(arm.name, weight_RK) for arm in arms}
            for budget, arms in rate_arms.items()
        },
        settings, d_model,
    )  # fmt: skip
    law_rows = conform("scaling_laws", law_table(laws, resamples, settings))
    law_rows.write_parquet(work / LAWS)
    run_rows = conform("scaling_runs", pl.concat([
        _rows("grid", grid, grid_sums, settings.batch, d_model, quality),
        _rows("rate", [arm for arms in rate_arms.values() for arm in arms], rate_sums, settings.batch, d_model, {}),
        _rows("equal_l0", [*dense, *matched], pair_sums, settings.batch, d_model, {}),
    ]))  # fmt: skip
    run_rows.write_parquet(work / RUNS)
    for name, png in draw_scaling(run_rows, laws).items():
        (work / name).write_bytes(png)
    measurements = [
        *laws_measured(laws, resamples, settings, len(runs)),
        *proxy_measured(run_rows.filter(experiment="grid"), settings.seed),
        *equal_l0_measured(pair_sums, [(one.name, other.name) for one, other in zip(matched, dense, strict=True)], settings),
    ]
    write_measurements(work, "scaling_laws", measurements)
    shutil.rmtree(work / SCRATCH)
    return Outcome({each.measurement: each.value for each in measurements} | {"n_runs": run_rows.height})


def _rows(
    experiment: str, arms: Sequence[Arm], sums: ByDocument, batch: int, d_model: int, quality: dict[str, tuple[float, float]]
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for arm in arms:
        f1, shuffled = quality.get(arm.name, (np.nan, np.nan))
        rows.append({
            "experiment": experiment, "arm": arm.name, "architecture": arm.architecture, "n_features": arm.n_features,
            "n_steps": arm.n_steps, "batch": batch, "learning_rate": arm.learning_rate, "sparsity": float(arm.sparsity),
            "seed": arm.seed, "flops": flops(d_model, arm.n_features, arm.n_steps * batch), "loss": float(sums.loss(arm.name)[0]),
            "explained_variance": float(sums.explained_variance(arm.name)[0]), "l0": sums.l0(arm.name),
            "norm_ratio": float(sums.norm_ratio(arm.name)[0]), "alive_fraction": sums.alive_A[sums.at(arm.name)] / arm.n_features,
            "rule_f1": f1, "rule_f1_shuffled": shuffled,
        })  # fmt: skip
    return pl.DataFrame(rows).with_columns(pl.col("rule_f1", "rule_f1_shuffled").fill_nan(None))
