"""What `null_models` hands to the verdicts: each headline of a trained SAE beside its nulls.

Shapes: R resamples, S seeds, K documents.
"""

from dataclasses import replace

import numpy as np
import polars as pl

from sae_pipeline.resampling import draws, interval, mean_and_interval
from sae_pipeline.study_survey_laws import NullModels
from sae_pipeline.survey.experiments.held_out import ByDocument, difference
from sae_pipeline.survey.experiments.null_scores import FROZEN, PCA, RANDOM, RANDOM_MODEL, TRAINED
from sae_pipeline.survey.experiments.synthetic import FROZEN as FROZEN_SYNTHETIC
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds, without_zero

FIGURE = "null_models"
ARCHITECTURE = "batch_topk"  # of the SAE with a frozen decoder
ONE_SEED = "at the smallest size, one SAE seed"
SCORED = (
    ("specificity", "mean rubric score 0-3 of held-out windows (proxy)"),
    ("rule_f1", "F1 of the unit's rule on held-out tokens"),
)


def recovery_measured(table: pl.DataFrame, settings: NullModels) -> Measurement:
    """`batch_topk` over seeds, beside itself with a frozen decoder. Intervals over seeds and planted features.

    The architecture is that of the control, not the one that does best here.
    """
    rate = table.with_columns(rate=pl.col("n_recovered") / pl.col("n_planted"))
    means = dict(rate.group_by("architecture").agg(pl.col("rate").mean()).sort("architecture").iter_rows())
    n_planted = int(table["n_planted"][0])
    own, control = (_planted_draws(rate.filter(architecture=name), settings.seed) for name in (ARCHITECTURE, FROZEN_SYNTHETIC))
    value, beside, least = means[ARCHITECTURE], means[FROZEN_SYNTHETIC], without_zero(thresholds().recovered_cosine)
    others = ", ".join(f"{name} {share:.3f}" for name, share in means.items() if name not in (ARCHITECTURE, FROZEN_SYNTHETIC))
    (low, high), (difference_low, difference_high) = interval(own), difference(own, control)
    return Measurement(
        "synthetic_recovery", f"share of planted directions with a decoder row of cosine >= {least} ({ARCHITECTURE})",
        value, n_planted * settings.n_seeds, n_planted * settings.n_seeds, low=low, high=high,
        control="the same architecture with a frozen random decoder", control_value=beside,
        difference_low=difference_low, difference_high=difference_high, n_seeds=settings.n_seeds,
        why=f"superposition: 128 directions in 64 dimensions; the others: {others}",
        rows="synthetic_recovery", figure=FIGURE,
    )  # fmt: skip


def _planted_draws(rows: pl.DataFrame, seed: int) -> np.ndarray:
    """Resampled mean rate: seeds are drawn, and within each a binomial number of recovered directions."""
    rate_S, n_planted = rows.sort("seed")["rate"].to_numpy(), int(rows["n_planted"][0])
    weight_RS = draws(len(rate_S), seed)
    random = np.random.default_rng([seed, 78])
    drawn_RS = random.binomial(n_planted, np.broadcast_to(rate_S, weight_RS.shape)) / n_planted
    return (weight_RS * drawn_RS).sum(1) / weight_RS.sum(1)


def _mean_variance(sums: ByDocument, kind: str, settings: NullModels, weight_RK: np.ndarray | None = None) -> np.ndarray:
    """Mean over seeds."""
    return np.mean([sums.explained_variance(f"{kind}-{seed}", weight_RK) for seed in range(settings.n_seeds)], axis=0)


def reconstruction_measured(sums: ByDocument, settings: NullModels) -> list[Measurement]:
    weight_RK = draws(len(sums.n_K), settings.seed)
    own, own_R = float(_mean_variance(sums, "trained", settings)[0]), _mean_variance(sums, "trained", settings, weight_RK)
    low, high = interval(own_R)
    l0 = {kind: float(np.mean([sums.l0(f"{kind}-{seed}") for seed in range(settings.n_seeds)])) for kind in ("trained", "frozen")}
    controls = {
        "frozen_decoder": ("SAE with a frozen random decoder", _mean_variance(sums, "frozen", settings, weight_RK),
                           float(_mean_variance(sums, "frozen", settings)[0]), l0["frozen"]),
        "pca": ("first k principal components", sums.explained_variance(PCA, weight_RK),
                float(sums.explained_variance(PCA)[0]), sums.l0(PCA)),
        "random_directions": ("k of F random directions, least squares", sums.explained_variance(RANDOM, weight_RK),
                              float(sums.explained_variance(RANDOM)[0]), sums.l0(RANDOM)),
    }  # fmt: skip
    measured = []
    for name, (control, control_R, control_value, control_l0) in controls.items():
        difference_low, difference_high = difference(own_R, control_R)
        measured.append(Measurement(
            f"explained_variance_over_{name}", f"explained variance of held-out tokens at L0 {l0['trained']:.1f}", own,
            len(sums.n_K), len(sums.n_K), low=low, high=high, control=f"{control}, L0 {control_l0:.1f}",
            control_value=control_value, difference_low=difference_low, difference_high=difference_high,
            n_seeds=settings.n_seeds, why="an SAE of the smallest size, trained by the same recipe as the frozen one",
            rows="null_model_reconstruction", figure=FIGURE,
        ))  # fmt: skip
    return measured


def scores_measured(scores: pl.DataFrame, settings: NullModels) -> list[Measurement]:
    """Trained features beside each null: specificity and rule F1; `specificity_of_nulls` is against the strongest of them."""
    measured, means = [], {}
    for column, metric in SCORED:
        own = scores.filter(pl.col("arm") == TRAINED, pl.col(column).is_not_null())[column].to_numpy()
        if not len(own):
            none = too_few("trained features with a score", 0, 1)
            measured.append(Measurement(f"{column}_of_nulls", metric, None, 0, scores.height, **none))
            continue
        value, low, high = mean_and_interval(own, settings.seed)
        own_R = draws(len(own), settings.seed) @ own / len(own)
        for at, arm in enumerate((FROZEN, PCA, RANDOM, RANDOM_MODEL)):
            rows = scores.filter(arm=arm)
            theirs = rows[column].drop_nulls().to_numpy()
            if not len(theirs):
                continue
            control_R = draws(len(theirs), settings.seed + 1 + at) @ theirs / len(theirs)
            difference_low, difference_high = difference(own_R, control_R)
            one = Measurement(
                f"{column}_over_{arm.replace(' ', '_')}", metric, value, len(own), scores.filter(arm=TRAINED).height, low=low,
                high=high, control=f"{arm} ({len(theirs)} of {rows.height} units scored)", control_value=float(theirs.mean()),
                difference_low=difference_low, difference_high=difference_high, n_control=len(theirs), why=ONE_SEED,
                rows="null_model_scores", figure=FIGURE,
            )  # fmt: skip
            measured.append(one)
            means[column, arm] = one
        strongest = max(
            (one for (name, _), one in means.items() if name == column), key=lambda one: one.control_value or 0.0, default=None
        )
        if strongest is not None:
            measured.append(
                replace(strongest, measurement=f"{column}_of_nulls", why=f"beside the strongest of the nulls; {ONE_SEED}")
            )
    return measured
