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
class Held:
    """The largest budget, which a law of the others predicts. All NaN where there are too few budgets for it."""

    predicted: float
    measured: float
    before: float
    """At the budget before: what persistence says."""

    def factor(self, which: str = "predicted") -> float:
        """Factor between what was measured and what was `predicted`, or what was there `before`; at least 1."""
        return float(np.exp(abs(np.log(getattr(self, which) / self.measured))))

    def error(self, which: str = "predicted") -> float:
        """Relative error of the same."""
        return abs(getattr(self, which) / self.measured - 1)

    def steps(self, which: str, settings: ScalingLaws) -> float:
        """The factor in steps of the grid of rates."""
        return float(np.log(self.factor(which)) / np.log(settings.rates[1] / settings.rates[0]))


@dataclass(frozen=True)
class Laws:
    """Every law against compute, and how well the largest budget is predicted, beside what the budget before had.

    An optimum at the edge of what was tried is a bound, no optimum: it enters no law. The largest budget is left out of the loss
    law, and of second laws of optimal features and rates, made for the prediction alone.
    """

    loss: PowerLaw
    optimal_features: PowerLaw
    optimal_steps: PowerLaw
    optimal_learning_rate: PowerLaw
    loss_held: Held
    features_held: Held
    rate_held: Held
    points: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Of each quantity: (compute, value) of the budgets it was read at."""


def fit_laws(runs: Runs, rates: RateRuns, settings: ScalingLaws, d_model: int, random: np.random.Generator | None = None) -> Laws:
    """All laws; with `random`, from budgets drawn with replacement. Laws of too few points are NaN."""
    every = budgets(runs)
    compute = {budget: flops(d_model, budget, settings.batch) for budget in {*every, *rates}}
    frontier = {budget: min(loss for pair, loss in runs.items() if pair[0] * pair[1] == budget) for budget in every}
    best = {budget: size for budget in every for size, inside in [optimum(runs, budget)] if inside}
    rate = {
        budget: place
        for budget, losses in rates.items()
        for place, inside in [minimum(np.array(list(losses), float), np.array(list(losses.values())))]
        if inside
    }
    points = {
        "loss": frontier, "optimal_features": best,
        "optimal_steps": {budget: budget / size for budget, size in best.items()}, "optimal_learning_rate": rate,
    }  # fmt: skip

    def law(values: Mapping[int, float], without_largest: bool = False) -> PowerLaw:
        chosen = list(values)[:-1] if without_largest else list(values)
        return _fit([(compute[b], values[b]) for b in chosen], random)

    laws = {name: law(values, without_largest=name == "loss") for name, values in points.items()}

    def held(values: Mapping[int, float], fitted: PowerLaw | None = None) -> Held:
        if len(values) < 3:  # a law of the others needs two of them
            return Held(float("nan"), float("nan"), float("nan"))
        before, largest = list(values)[-2:]
        return Held((fitted or law(values, without_largest=True)).at(compute[largest]), values[largest], values[before])

    return Laws(
        **laws, loss_held=held(frontier, laws["loss"]), features_held=held(best), rate_held=held(rate),
        points={
            name: (np.array([compute[b] for b in values]), np.array(list(values.values()))) for name, values in points.items()
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


def between(resamples: list[Laws], value: Callable[[Laws], float]) -> tuple[float | None, float | None]:
    """95 % interval of a number of the laws, over the resamples that have it; (None, None) where none has."""
    low, high = interval(np.array([value(laws) for laws in resamples]))
    return (low, high) if np.isfinite(low) else (None, None)


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
            "r_squared": law.r_squared if np.isfinite(law.r_squared) else None, "n_budgets": len(x),
            "flops_low": float(x.min()) if len(x) else None, "flops_high": float(x.max()) if len(x) else None,
            "batch": settings.batch,
        })  # fmt: skip
    numbers = ("coefficient", "exponent", "exponent_low", "exponent_high", "r_squared", "flops_low", "flops_high")
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(numbers, pl.Float64))
