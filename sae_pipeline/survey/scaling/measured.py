"""What `scaling_laws` hands to the verdicts."""

from collections.abc import Callable

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from sae_pipeline.resampling import interval
from sae_pipeline.study_survey_laws import ScalingLaws
from sae_pipeline.survey.experiments.held_out import difference
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
    exponents = [
        ("loss_law_r_squared", "R² of log loss against log compute on the frontier, without the largest budget",
         lambda each: each.loss.r_squared, n["loss"] - 1, 3, ONE_SEED),
        ("loss_exponent", "exponent of loss against compute", lambda each: each.loss.exponent, n["loss"] - 1, 2, ONE_SEED),
        ("optimal_features_exponent", "exponent of the optimal number of features against compute",
         lambda each: each.optimal_features.exponent, n["optimal_features"], 2, f"{SUM_TO_ONE}; {ONE_SEED}; {INSIDE}"),
        ("optimal_steps_exponent", "exponent of the optimal number of steps against compute",
         lambda each: each.optimal_steps.exponent, n["optimal_steps"], 2, f"{SUM_TO_ONE}; {ONE_SEED}; {INSIDE}"),
        ("learning_rate_exponent", "exponent of the optimal learning rate against compute",
         lambda each: each.optimal_learning_rate.exponent, n["optimal_learning_rate"], 2, f"{ONE_SEED}; {INSIDE}"),
    ]  # fmt: skip
    measured = []
    for name, metric, value, n_scored, needed, why in exponents:
        known = float(value(laws))
        ok = bool(np.isfinite(known))
        low, high = between(resamples, value) if ok else (None, None)
        measured.append(Measurement(
            name, metric, known if ok else None, n_scored, n_runs, low=low, high=high, why=why, rows="scaling_runs",
            figure=_figure(name), **({} if ok else too_few("budgets to fit a law to", n_scored, needed)),
        ))  # fmt: skip
    predicted = [
        ("loss_law_held_out_error", "relative error of the loss predicted for the largest budget", "the loss",
         lambda each, which: each.loss_held.error(which), n["loss"], ONE_SEED),
        ("learning_rate_law_error_grid_steps",
         "error of the rate predicted for the largest budget whose rates were swept, in steps of the grid", "the optimum",
         lambda each, which: each.rate_held.steps(which, settings), n["optimal_learning_rate"], f"{ONE_SEED}; {INSIDE}"),
        ("optimal_features_held_out_factor", "factor by which the predicted optimal features of the largest budget are off",
         "the optimum", lambda each, which: each.features_held.factor(which), n["optimal_features"], f"{ONE_SEED}; {INSIDE}"),
    ]  # fmt: skip
    return measured + [_predicted(laws, resamples, n_runs, *one) for one in predicted]


def _predicted(
    laws: Laws, resamples: list[Laws], n_runs: int, name: str, metric: str, what: str, off: Callable[[Laws, str], float],
    n_budgets: int, why: str,
) -> Measurement:  # fmt: skip
    """How far off the law of the other budgets is at the largest one, beside what the budget before says without any law."""
    control, value = f"{what} of the budget before, unchanged", off(laws, "predicted")
    if not np.isfinite(value):
        few = too_few("budgets whose optimum lies inside" if what == "the optimum" else "budgets", n_budgets, 3)
        return Measurement(name, metric, None, 0, n_runs, control=control, rows="scaling_runs", figure=_figure(name), **few)
    value_R, control_R = (np.array([off(each, which) for each in resamples]) for which in ("predicted", "before"))
    low, high = interval(value_R)
    paired = interval(value_R - control_R)
    return Measurement(
        name, metric, value, 1, n_runs, low=low, high=high, control=control, control_value=off(laws, "before"),
        difference_low=paired[0], difference_high=paired[1], why=f"law of {n_budgets - 1} smaller budgets; {why}",
        rows="scaling_runs", figure=_figure(name),
    )  # fmt: skip


def _figure(name: str) -> str:
    return RATES_FIGURE if name.startswith("learning_rate") else FIGURE


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
