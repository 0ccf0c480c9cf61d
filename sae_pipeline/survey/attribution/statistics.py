"""What the pairs of many prompts say together: errors, correlations, overlaps of rankings.

Every interval resamples prompts: pairs of one prompt are not independent. Shapes: Q prompts.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from sae_pipeline.resampling import bootstrap

TOP = 10


@dataclass(frozen=True)
class Compared:
    """A value beside its control, both over the same prompts, each with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    control: float
    difference_low: float | None
    difference_high: float | None
    n: int

    @property
    def columns(self) -> dict[str, float | int | None]:
        """Fields of a `Measurement`."""
        return {
            "value": self.value, "low": self.low, "high": self.high, "control_value": self.control,
            "difference_low": self.difference_low, "difference_high": self.difference_high,
        }  # fmt: skip


def compared(value_Q: np.ndarray, control_Q: np.ndarray, seed: int) -> Compared:
    """Means over prompts and of their paired difference. Raises `ValueError` for no prompts."""
    return _compared(lambda values, drawn: float(values[drawn].mean()), value_Q, control_Q, seed)


def compared_medians(value_Q: np.ndarray, control_Q: np.ndarray, seed: int) -> Compared:
    """The same with medians."""
    return _compared(lambda values, drawn: float(np.median(values[drawn])), value_Q, control_Q, seed)


def compared_largest(value_Q: np.ndarray, control_Q: np.ndarray, seed: int) -> Compared:
    """The same with the largest of all prompts."""
    return _compared(lambda values, drawn: float(values[drawn].max()), value_Q, control_Q, seed)


def pooled_correlations(pairs: pl.DataFrame, x: str, control: str, y: str, seed: int) -> Compared:
    """Pearson correlation of columns `x` and `y` over the pairs of all prompts, beside that of `control` and `y`."""
    sums_Q6, control_Q6 = (_moments(pairs, name, y) for name in (x, control))
    return _compared(lambda sums, drawn: _correlation(sums[drawn].sum(0)), sums_Q6, control_Q6, seed)


def correlations_by_prompt(pairs: pl.DataFrame, x: str, y: str) -> np.ndarray:
    """Pearson correlation within each prompt, in order of `prompt_id`; 0 where one side does not vary."""
    return np.array([_correlation(row) for row in _moments(pairs, x, y)])


def top_overlap(pairs: pl.DataFrame, by: str, truth: str) -> np.ndarray:
    """Share of each prompt's ten largest by `truth` that are among its ten largest by `by`, in order of `prompt_id`."""

    def overlap(of_prompt: pl.DataFrame) -> float:
        # Fewer than ten pairs: as many as there are.
        tops = [set(np.argsort(-of_prompt[name].to_numpy(), kind="stable")[:TOP].tolist()) for name in (by, truth)]
        return len(tops[0] & tops[1]) / len(tops[1])

    return np.array([overlap(each) for each in pairs.sort("prompt_id").partition_by("prompt_id", maintain_order=True)])


def relative_errors(pairs: pl.DataFrame, estimate: str, truth: str) -> np.ndarray:
    """Norm of estimate - truth over that of truth, within each prompt, in order of `prompt_id`."""
    error = ((pl.col(estimate) - pl.col(truth)) ** 2).sum().sqrt() / (pl.col(truth) ** 2).sum().sqrt()
    return pairs.group_by("prompt_id").agg(error.alias("error")).sort("prompt_id")["error"].to_numpy()


def _compared(statistic, value_Q: np.ndarray, control_Q: np.ndarray, seed: int) -> Compared:
    if not len(value_Q):
        raise ValueError("no prompts to compare")
    everything = np.arange(len(value_Q))
    low, high = bootstrap(partial(statistic, value_Q), len(value_Q), seed)
    difference_low, difference_high = bootstrap(
        lambda drawn: statistic(value_Q, drawn) - statistic(control_Q, drawn), len(value_Q), seed
    )
    return Compared(
        statistic(value_Q, everything), low, high, statistic(control_Q, everything), difference_low, difference_high, len(value_Q)
    )


def _moments(pairs: pl.DataFrame, x: str, y: str) -> np.ndarray:
    """n and the five sums of x and y within each prompt, Q x 6: correlations of any resample follow from them."""
    X, Y = pl.col(x).cast(pl.Float64), pl.col(y).cast(pl.Float64)
    sums = [pl.len().cast(pl.Float64).alias("n")]
    sums += [(a * b).sum().alias(str(i)) for i, (a, b) in enumerate([(X, pl.lit(1.0)), (Y, pl.lit(1.0)), (X, X), (Y, Y), (X, Y)])]
    return pairs.group_by("prompt_id").agg(sums).sort("prompt_id").drop("prompt_id").to_numpy()


def _correlation(sums_6: np.ndarray) -> float:
    n, x, y, xx, yy, xy = sums_6
    variances = (xx - x * x / n) * (yy - y * y / n)
    return float((xy - x * y / n) / np.sqrt(variances)) if variances > 0 else 0.0
