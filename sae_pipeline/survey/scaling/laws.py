"""From the losses of all runs to the laws, with intervals: once as measured, and once for every resample.

A resample draws held-out documents (for the losses) and budgets (for the points that a law is fitted to); seeds of training are
one, and said to be so.

Shapes: R resamples, K documents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from sae_pipeline.resampling import interval
from sae_pipeline.study_survey_laws import ScalingLaws
from sae_pipeline.survey.scaling.fits import PowerLaw, flops, minimum, power_law
from sae_pipeline.survey.scaling.sweep import Runs, budgets, optimum

RateRuns = Mapping[int, Mapping[float, float]]  # budget -> rate -> held-out loss
QUANTITIES = ("loss", "optimal_features", "optimal_steps", "optimal_learning_rate")
UNKNOWN = PowerLaw(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Laws:
    """Every law against compute, and how well the largest budget is predicted: it is left out of the loss law, of the rate law,
    and of a second law of optimal features, whose prediction stands beside the optimum of the budget before.
    """

    loss: PowerLaw
    optimal_features: PowerLaw
    optimal_steps: PowerLaw
    optimal_learning_rate: PowerLaw
    loss_predicted: float
    loss_measured: float
    rate_predicted: float
    rate_measured: float
    features_predicted: float
    features_measured: float
    features_before: float
    points: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Of each quantity: (compute, value) of the budgets it was read at."""

    @property
    def loss_error(self) -> float:
        """Relative."""
        return abs(self.loss_predicted / self.loss_measured - 1)

    @property
    def features_factor(self) -> float:
        """Factor between the predicted optimal features of the largest budget that has an optimum, and the measured ones."""
        return float(np.exp(abs(np.log(self.features_predicted / self.features_measured))))

    @property
    def features_factor_without_growth(self) -> float:
        """The same when the optimum stays what it was at the budget before."""
        return float(np.exp(abs(np.log(self.features_before / self.features_measured))))

    def rate_error(self, settings: ScalingLaws) -> float:
        """In steps of the grid of rates."""
        step = np.log(settings.rates[1] / settings.rates[0])
        return float(abs(np.log(self.rate_predicted / self.rate_measured) / step))


def fit_laws(runs: Runs, rates: RateRuns, settings: ScalingLaws, d_model: int, random: np.random.Generator | None = None) -> Laws:
    """All laws; with `random`, from budgets drawn with replacement. Laws of too few points are NaN."""
    every = budgets(runs)
    compute = {budget: flops(d_model, budget, settings.batch) for budget in {*every, *rates}}
    frontier = {budget: min(loss for pair, loss in runs.items() if pair[0] * pair[1] == budget) for budget in every}
    best = {budget: size for budget in every for size, inside in [optimum(runs, budget)] if inside}
    rate = {}
    for budget, losses in rates.items():
        rate[budget], _ = minimum(np.array(list(losses), float), np.array(list(losses.values())))
    points = {
        "loss": (frontier, every[:-1]),
        "optimal_features": (best, list(best)),
        "optimal_steps": ({budget: budget / size for budget, size in best.items()}, list(best)),
        "optimal_learning_rate": (rate, list(rate)[:-1]),
    }
    laws = {name: _fit([(compute[b], values[b]) for b in chosen], random) for name, (values, chosen) in points.items()}
    last, last_rate = every[-1], list(rate)[-1]
    # Of optimal features, the largest budget that has an optimum; a law of the others needs two of them.
    with_optimum = list(best) if len(best) > 2 else []
    held = _fit([(compute[b], best[b]) for b in with_optimum[:-1]], random)
    before, largest = with_optimum[-2:] or (last, last)
    return Laws(
        **laws, loss_predicted=laws["loss"].at(compute[last]), loss_measured=frontier[last],
        rate_predicted=laws["optimal_learning_rate"].at(compute[last_rate]), rate_measured=rate[last_rate],
        features_predicted=held.at(compute[largest]), features_measured=best.get(largest, float("nan")),
        features_before=best.get(before, float("nan")),
        points={
            name: (np.array([compute[b] for b in values]), np.array(list(values.values())))
            for name, (values, _) in points.items()
        },
    )  # fmt: skip


def _fit(points: list[tuple[float, float]], random: np.random.Generator | None) -> PowerLaw:
    if random is not None and points:
        points = [points[at] for at in random.integers(0, len(points), len(points))]
    x, y = (np.array(each) for each in zip(*points, strict=True)) if points else (np.empty(0), np.empty(0))
    return power_law(x, y) if len(np.unique(x)) > 1 else UNKNOWN


def resampled(
    runs_R: Mapping[tuple[int, int], np.ndarray], rates_R: Mapping[int, Mapping[float, np.ndarray]], settings: ScalingLaws,
    d_model: int,
) -> list[Laws]:  # fmt: skip
    """The laws of every resample; losses come with R values each."""
    n = len(next(iter(runs_R.values())))
    random = np.random.default_rng([settings.seed, 79])
    return [
        fit_laws(
            {pair: float(loss[r]) for pair, loss in runs_R.items()},
            {budget: {rate: float(loss[r]) for rate, loss in losses.items()} for budget, losses in rates_R.items()},
            settings, d_model, random,
        )
        for r in range(n)
    ]  # fmt: skip


def between(resamples: list[Laws], value: Callable[[Laws], float]) -> tuple[float, float]:
    """95 % interval of a number of the laws."""
    return interval(np.array([value(laws) for laws in resamples]))


def law_table(laws: Laws, resamples: list[Laws], settings: ScalingLaws) -> pl.DataFrame:
    """Table `scaling_laws`; quantities without a law have nulls."""
    rows = []
    for name in QUANTITIES:
        law: PowerLaw = getattr(laws, name)
        low, high = between(resamples, lambda each, name=name: getattr(each, name).exponent)
        x, _ = laws.points[name]
        known = np.isfinite(law.exponent)
        rows.append({
            "quantity": name, "coefficient": law.coefficient if known else None, "exponent": law.exponent if known else None,
            "exponent_low": low if known else None, "exponent_high": high if known else None,
            "r_squared": law.r_squared if known else None, "n_budgets": len(x),
            "flops_low": float(x.min()) if len(x) else None, "flops_high": float(x.max()) if len(x) else None,
            "batch": settings.batch,
        })  # fmt: skip
    numbers = ("coefficient", "exponent", "exponent_low", "exponent_high", "r_squared", "flops_low", "flops_high")
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(numbers, pl.Float64))
