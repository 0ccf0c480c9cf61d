"""Metrics of steered texts without a language-model judge, the choice of a factor, and intervals.

Formulas: docs/metrics.md.

Shape legend: N texts, P prompts, S texts per prompt, R resamples.
"""

from dataclasses import dataclass
from math import log

import numpy as np
import polars as pl

from sae_pipeline.steering.concepts import Concept
from sae_pipeline.steering.fluency import distinct

N_RESAMPLES = 1000
MIN_RATIO, MIN_DIFFERENCE, MIN_TEXTS = 3.0, 0.10, 40


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval from `n` texts; None where there is no text."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Texts:
    """One arm on one half at one factor, read for one concept."""

    hit_N: np.ndarray
    fluent_N: np.ndarray
    prompt_N: np.ndarray
    cross_entropy_N: np.ndarray
    repetition_N: np.ndarray
    distinct_2_N: np.ndarray

    @classmethod
    def of(cls, rows: pl.DataFrame, concept: Concept) -> "Texts":
        """`rows` of `steering_generations`, of any number of units."""
        completions = rows["completion"].to_list()
        return cls(
            np.array([concept.in_text(text) for text in completions], bool),
            rows["fluent"].to_numpy().astype(bool),
            rows["prompt_id"].to_numpy(),
            rows["cross_entropy"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
            rows["repetition"].to_numpy(),
            np.array([distinct(text) for text in completions], np.float64),
        )

    @property
    def n(self) -> int:
        """N."""
        return len(self.hit_N)

    @property
    def concept_rate(self) -> float:
        """(hits + 0.5) / (n + 1)."""
        return smoothed(int(self.hit_N.sum()), self.n)

    @property
    def quality(self) -> float:
        """Harmonic mean of concept rate and share of fluent texts, both smoothed: what the choice of a factor maximises."""
        fluency = smoothed(int(self.fluent_N.sum()), self.n)
        return 2 * self.concept_rate * fluency / (self.concept_rate + fluency)

    def metrics(self, seed: int) -> dict[str, Interval]:
        """Every metric of `steering_scores` with its interval."""
        result: dict[str, Interval] = {}
        for name, hit_N in {"concept_rate": self.hit_N, "fluent_concept_rate": self.hit_N & self.fluent_N}.items():
            low, high = bootstrap_interval(hit_N, self.prompt_N, seed)
            result[name] = Interval(smoothed(int(hit_N.sum()), self.n), low, high, self.n)
        rate = result["concept_rate"]
        ends = [None if end is None else log_odds(end * self.n, self.n) for end in (rate.low, rate.high)]
        result["log_odds"] = Interval(log_odds(int(self.hit_N.sum()), self.n), ends[0], ends[1], self.n)
        means = {
            "fluency": self.fluent_N, "cross_entropy": self.cross_entropy_N, "repetition": self.repetition_N,
            "distinct_2": self.distinct_2_N,
        }  # fmt: skip
        for name, value_N in means.items():
            known_N = ~np.isnan(value_N.astype(np.float64))
            low, high = bootstrap_interval(value_N[known_N], self.prompt_N[known_N], seed)
            mean = float(value_N[known_N].mean()) if known_N.any() else None
            result[name] = Interval(mean, low, high, int(known_N.sum()))
        return result


def smoothed(hits: float, n: int) -> float:
    """(hits + 0.5) / (n + 1): never 0 or 1, so that ratios and logarithms exist."""
    return (hits + 0.5) / (n + 1)


def log_odds(hits: float, n: int) -> float:
    """ln((hits + 0.5) / (n - hits + 0.5))."""
    return log((hits + 0.5) / (n - hits + 0.5))


def choose_factor(texts_by_factor: dict[float, Texts]) -> float:
    """The factor of the best quality on the choosing half; of equals the one nearest to zero."""
    return min(texts_by_factor, key=lambda factor: (-texts_by_factor[factor].quality, abs(factor), -factor))


def sweet_spot(texts_by_factor: dict[float, Texts]) -> tuple[float, float] | None:
    """(lowest, highest) positive factor that keeps at least half of the best quality; None without a positive factor."""
    quality = {factor: texts.quality for factor, texts in texts_by_factor.items() if factor > 0 and texts.n}
    working = [factor for factor, each in quality.items() if each >= max(quality.values()) / 2]
    return (min(working), max(working)) if working else None


def bootstrap_interval(value_N: np.ndarray, prompt_N: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    """95 % percentile interval of the mean, prompts resampled first and texts within prompts second."""
    if not len(value_N):
        return None, None
    mean_R = _resampled_means(value_N, prompt_N, np.random.default_rng(seed))
    low, high = np.percentile(mean_R, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_difference(ours: Texts, control: Texts, seed: int) -> tuple[float | None, float | None]:
    """95 % interval of the difference of hit rates; both arms resampled as in `bootstrap_interval`, independently."""
    if not ours.n or not control.n:
        return None, None
    generator = np.random.default_rng(seed)
    mean_R = _resampled_means(ours.hit_N, ours.prompt_N, generator) - _resampled_means(control.hit_N, control.prompt_N, generator)
    low, high = np.percentile(mean_R, [2.5, 97.5])
    return float(low), float(high)


def _resampled_means(value_N: np.ndarray, prompt_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    prompts, prompt_index_N = np.unique(prompt_N, return_inverse=True)
    count_P = np.bincount(prompt_index_N)
    order = np.argsort(prompt_index_N, kind="stable")
    sorted_N = np.asarray(value_N, np.float64)[order]
    start_P = np.concatenate([[0], np.cumsum(count_P)[:-1]])
    drawn_RP = generator.integers(0, len(prompts), (N_RESAMPLES, len(prompts)))
    n_RP = count_P[drawn_RP]
    pick_RPS = (generator.random((*drawn_RP.shape, count_P.max())) * n_RP[..., None]).astype(np.int64)
    used_RPS = np.arange(count_P.max()) < n_RP[..., None]
    value_RPS = np.where(used_RPS, sorted_N[start_P[drawn_RP][..., None] + np.where(used_RPS, pick_RPS, 0)], 0.0)
    return value_RPS.sum((1, 2)) / n_RP.sum(1)


def passes(ours: Texts, control: Texts, low: float | None) -> bool:
    """At least 3 x the control's concept rate and 10 points above it, interval above 0, 40 texts in both arms."""
    return (
        min(ours.n, control.n) >= MIN_TEXTS
        and ours.concept_rate >= MIN_RATIO * control.concept_rate
        and ours.concept_rate - control.concept_rate >= MIN_DIFFERENCE
        and low is not None
        and low > 0
    )
