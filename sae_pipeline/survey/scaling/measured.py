"""What `scaling_laws` hands to the verdicts."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from sae_pipeline.resampling import draws, interval
from sae_pipeline.study_survey_laws import ScalingLaws
from sae_pipeline.survey.experiments.held_out import ByDocument, difference
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.scaling.laws import Laws, between

FIGURE, RATES_FIGURE = "scaling_laws", "scaling_rates"
ONE_SEED = "one seed of training; intervals over held-out documents and budgets"
INSIDE = "budgets whose optimum lies inside"
SUM_TO_ONE = (
    "compute is features x steps, so this exponent and the other one sum to 1 by construction: one number, not two; "
    "what is measured besides is optimal_features_held_out_factor"
)


def laws_measured(laws: Laws, resamples: list[Laws], settings: ScalingLaws, n_runs: int) -> list[Measurement]:
    """Fits and predictions. What no law could be fitted to has no value, and says so."""
    n = {name: len(x) for name, (x, _) in laws.points.items()}
    one = [
        ("loss_law_r_squared", "R² of log loss against log compute on the frontier, without the largest budget",
         lambda each: each.loss.r_squared, n["loss"] - 1, ONE_SEED),
        ("loss_exponent", "exponent of loss against compute", lambda each: each.loss.exponent, n["loss"] - 1, ONE_SEED),
        ("loss_law_held_out_error", "relative error of the loss predicted for the largest budget",
         lambda each: each.loss_error, 1, ONE_SEED),
        ("optimal_features_exponent", "exponent of the optimal number of features against compute",
         lambda each: each.optimal_features.exponent, n["optimal_features"], f"{SUM_TO_ONE}; {ONE_SEED}; {INSIDE}"),
        ("optimal_steps_exponent", "exponent of the optimal number of steps against compute",
         lambda each: each.optimal_steps.exponent, n["optimal_steps"], f"{SUM_TO_ONE}; {ONE_SEED}; {INSIDE}"),
        ("learning_rate_exponent", "exponent of the optimal learning rate against compute, without the largest budget",
         lambda each: each.optimal_learning_rate.exponent, n["optimal_learning_rate"] - 1, ONE_SEED),
        ("learning_rate_law_error_grid_steps", "error of the rate predicted for the largest budget, in steps of the grid",
         lambda each: each.rate_error(settings), 1, ONE_SEED),
    ]  # fmt: skip
    measured = []
    for name, metric, value, n_scored, why in one:
        known = float(value(laws))
        low, high = between(resamples, value)
        ok = bool(np.isfinite(known))
        bounds = (low, high) if np.isfinite(low) else (None, None)
        measured.append(Measurement(
            name, metric, known if ok else None, n_scored, n_runs, low=bounds[0] if ok else None, high=bounds[1] if ok else None,
            why=why, rows="scaling_runs", **({} if ok else too_few("budgets to fit a law to", n_scored, 2)),
            figure=RATES_FIGURE if name.startswith("learning_rate") else FIGURE,
        ))  # fmt: skip
    return [*measured, _held_out_features(laws, resamples, n["optimal_features"], n_runs)]


def _held_out_features(laws: Laws, resamples: list[Laws], n_budgets: int, n_runs: int) -> Measurement:
    """The growth of the optimum beyond the budgets that it was fitted to."""
    name, metric = (
        "optimal_features_held_out_factor",
        "factor by which the predicted optimal features of the largest budget are off",
    )
    factor = laws.features_factor
    if not np.isfinite(factor):
        few = too_few("budgets whose optimum lies inside", n_budgets, 3)
        return Measurement(name, metric, None, 0, n_runs, rows="scaling_runs", figure=FIGURE, **few)
    value_R, control_R = (
        np.array([getattr(each, which) for each in resamples]) for which in ("features_factor", "features_factor_without_growth")
    )
    low, high = interval(value_R)
    paired = interval(value_R - control_R)
    return Measurement(
        name, metric, factor, 1, n_runs, low=low, high=high, control="the optimum of the budget before, unchanged",
        control_value=laws.features_factor_without_growth, difference_low=paired[0], difference_high=paired[1],
        why=f"law of {n_budgets - 1} smaller budgets; {ONE_SEED}", rows="scaling_runs", figure=FIGURE,
    )  # fmt: skip


def proxy_measured(runs: pl.DataFrame, seed: int) -> list[Measurement]:
    """Rank correlation over the runs of the grid: does a lower loss mean better rules, and more living features?"""
    weight_RK = np.random.default_rng([seed, 80]).integers(0, runs.height, (1000, runs.height))

    def correlation(column: str) -> tuple[float | None, np.ndarray, int]:
        x, y = -runs["loss"].to_numpy(), runs[column].to_numpy()
        known = np.isfinite(y)
        value_R = np.array([_rank(x[rows][known[rows]], y[rows][known[rows]]) for rows in weight_RK])
        value = _rank(x[known], y[known])
        return (float(value) if np.isfinite(value) else None), value_R, int(known.sum())

    own, own_R, n = correlation("rule_f1")
    control, control_R, _ = correlation("rule_f1_shuffled")
    alive, alive_R, n_alive = correlation("alive_fraction")
    low, high = interval(own_R)
    paired = difference(own_R, control_R)
    return [
        Measurement(
            "loss_as_proxy", "Spearman correlation over runs of minus held-out loss and the mean F1 of features' token rules",
            own, n, runs.height, low=low if own is not None else None, high=high if own is not None else None,
            control="the same with every rule given to another feature", control_value=control,
            difference_low=paired[0] if own is not None and control is not None else None,
            difference_high=paired[1] if own is not None and control is not None else None,
            **({} if own is not None else too_few("runs with rules that could be scored", n, 2)),
            why="interval over runs; runs differ in features and steps at one L0", rows="scaling_runs",
        ),
        Measurement(
            "loss_as_proxy_of_alive_features", "Spearman correlation over runs of minus held-out loss and the share alive",
            alive, n_alive, runs.height, low=interval(alive_R)[0] if alive is not None else None,
            high=interval(alive_R)[1] if alive is not None else None, status="ok" if alive is not None else "too_few_examples",
            why="undefined where all features of all runs are alive" if alive is None else "interval over runs",
            rows="scaling_runs",
        ),
    ]  # fmt: skip


def _rank(x: np.ndarray, y: np.ndarray) -> float:
    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return float("nan")
    return float(spearmanr(x, y).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def equal_l0_measured(sums: ByDocument, pairs: Sequence[tuple[str, str]], settings: ScalingLaws) -> list[Measurement]:
    """batch_topk beside ReLU-L1 at the L0 that the latter came to; `pairs`: (batch_topk arm, its ReLU-L1 arm)."""
    weight_RK = draws(len(sums.n_K), settings.seed)
    own_R, control_R = (np.mean([sums.explained_variance(pair[at], weight_RK) for pair in pairs], axis=0) for at in (0, 1))
    own, control = (float(np.mean([sums.explained_variance(pair[at])[0] for pair in pairs])) for at in (0, 1))
    l0 = ", ".join(f"{sums.l0(first):.1f} and {sums.l0(second):.1f}" for first, second in pairs)
    low, high = interval(own_R)
    paired = difference(own_R, control_R)
    measured = [
        Measurement(
            "topk_over_relu_l1_at_matched_l0", f"explained variance, mean over {len(pairs)} matched L0", own, len(sums.n_K),
            len(sums.n_K), low=low, high=high, control="ReLU-L1 at the same L0", control_value=control, difference_low=paired[0],
            difference_high=paired[1], why=f"held-out L0 of batch_topk and ReLU-L1: {l0}; trained to match, not interpolated",
            rows="scaling_runs", figure=RATES_FIGURE,
        )
    ]  # fmt: skip
    # By rule the densest pair: reconstructions without bias have a ratio near the root of their explained variance.
    best, relu = max(pairs, key=lambda pair: sums.l0(pair[1]))
    own_R, control_R = sums.norm_ratio(best, weight_RK), sums.norm_ratio(relu, weight_RK)
    paired = difference(own_R, control_R)
    low, high = interval(own_R)
    root = float(sums.explained_variance(best)[0]) ** 0.5
    measured.append(
        Measurement(
            "reconstruction_norm_ratio", f"mean ‖x_hat‖ / ‖x‖ of batch_topk at L0 {sums.l0(best):.1f}",
            float(sums.norm_ratio(best)[0]), len(sums.n_K), len(sums.n_K), low=low, high=high,
            control=f"ReLU-L1 at L0 {sums.l0(relu):.1f}", control_value=float(sums.norm_ratio(relu)[0]),
            difference_low=paired[0], difference_high=paired[1],
            why=f"at the densest matched L0; the root of its explained variance, near which unbiased ones lie, is {root:.3f}",
            rows="scaling_runs", figure=RATES_FIGURE,
        )
    )  # fmt: skip
    return measured
