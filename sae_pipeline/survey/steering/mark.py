"""Row 29: how many concepts pass the main run's mark when the random directions went through the same two choices?

The mark of the steering evals (three times as often, ten points more, interval above 0), here against unsteered texts. The
feature is the best by output score of its candidates, the random direction that of as many; each at the factor that the choosing
prompts chose for it.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from sae_pipeline.resampling import bootstrap_mean, paired_difference
from sae_pipeline.steering.scores import MIN_DIFFERENCE, MIN_RATIO, Texts, bootstrap_difference
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.steering.concepts import Topic
from sae_pipeline.survey.steering.methods import BASELINE, CLAMP, RANDOM


def passed(ours: Texts, plain: Texts, seed: int) -> bool:
    """Whether the texts name their concept that much more often than unsteered ones."""
    low, _ = bootstrap_difference(ours, plain, seed)
    ratio = ours.concept_rate >= MIN_RATIO * plain.concept_rate
    return bool(ratio and ours.concept_rate - plain.concept_rate >= MIN_DIFFERENCE and low is not None and low > 0)


def measure_mark(texts: pl.DataFrame, report: pl.DataFrame, topics: Sequence[Topic], seed: int, shared: dict) -> Measurement:
    """The share of concepts that a clamp carries past the mark, beside the share that a chosen random direction does."""
    ours, theirs = (
        np.array([_passes(texts, report, topic, method, seed) for topic in topics], float) for method in (CLAMP, RANDOM)
    )
    value, value_low, value_high = bootstrap_mean(ours, seed)
    difference, low, high, n = paired_difference(ours, theirs, np.arange(len(ours)), seed)
    return Measurement(
        "steering_passes_over_random_directions",
        f"share of concepts that a clamp names at least {MIN_RATIO:g} times as often as unsteered texts do", value, n,
        low=value_low, high=value_high, control="random directions through the same output score and choice of a factor",
        control_value=float(theirs.mean()), difference=difference, difference_low=low, difference_high=high, **shared,
    )  # fmt: skip


def _passes(texts: pl.DataFrame, report: pl.DataFrame, topic: Topic, method: str, seed: int) -> bool:
    at = report.filter((pl.col("control") == method) & (pl.col("concept") == topic.name))["factor"][0]
    reporting = texts.filter(pl.col("half") == "report")
    own = reporting.filter((pl.col("control") == method) & (pl.col("concept") == topic.name) & (pl.col("factor") == at))
    plain = reporting.filter(pl.col("control") == BASELINE)
    return passed(Texts.of(own, topic.concept), Texts.of(plain, topic.concept), seed)
