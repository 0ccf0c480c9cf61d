"""Row 30: of three named themes, how many are steered? A theme is steered when its texts name it three times as often as those
beside them, and at least half of them are fluent.

Three themes are no sample of themes: the interval is that of the prompts. They are resampled with all texts that answer them, the
same prompts for every theme and method.

Shapes: P prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from sae_pipeline.resampling import bootstrap
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.steering.concepts import Topic
from sae_pipeline.survey.steering.methods import BASELINE, CLAMP, RANDOM
from sae_pipeline.survey.thresholds import thresholds

N_THEMES = 3


@dataclass(frozen=True)
class Counted:
    """Texts of one method about one theme by prompt: all, those that name it, those that are fluent. P each."""

    n_P: np.ndarray
    hits_P: np.ndarray
    fluent_P: np.ndarray

    def rate(self, hits_P: np.ndarray, at: np.ndarray) -> float:
        """Smoothed as in table `steering_methods`, over the prompts `at` (one may occur more than once)."""
        return float((hits_P[at].sum() + 0.5) / (self.n_P[at].sum() + 1))


def steered(own: Counted, beside: Counted, at: np.ndarray) -> bool:
    """Whether the theme is steered, as far as the prompts `at` say."""
    named = own.rate(own.hits_P, at) >= thresholds().theme_ratio * beside.rate(beside.hits_P, at)
    return named and own.rate(own.fluent_P, at) >= thresholds().theme_fluent


def counted(texts: pl.DataFrame, report: pl.DataFrame, topic: Topic, method: str) -> Counted:
    """The reporting texts of a method at its factor; of `baseline` every unsteered one."""
    rows = texts.filter((pl.col("control") == method) & (pl.col("half") == "report"))
    if method == BASELINE:
        rows = rows.with_columns(pl.Series("hit", [topic.concept.in_text(text) for text in rows["completion"]], dtype=pl.Boolean))
    else:
        chosen = report.filter((pl.col("control") == method) & (pl.col("concept") == topic.name))["factor"][0]
        rows = rows.filter((pl.col("concept") == topic.name) & (pl.col("factor") == chosen))
    by_prompt = rows.group_by("prompt_id").agg(pl.len(), pl.col("hit").sum(), pl.col("fluent").sum()).sort("prompt_id")
    return Counted(*(by_prompt[name].to_numpy().astype(np.int64) for name in ("len", "hit", "fluent")))


def measure_themes(texts: pl.DataFrame, report: pl.DataFrame, topics: Sequence[Topic], seed: int, shared: dict) -> Measurement:
    """The clamp beside the random direction; the random direction beside unsteered texts. `topics`: those that have a theme."""
    arms = [tuple(counted(texts, report, topic, method) for method in (CLAMP, RANDOM, BASELINE)) for topic in topics]
    n_prompts = len(arms[0][0].n_P) if arms else 0

    def n_steered(at: np.ndarray) -> int:
        return sum(steered(clamp, random, at) for clamp, random, _ in arms)

    def n_by_chance(at: np.ndarray) -> int:
        return sum(steered(random, plain, at) for _, random, plain in arms)

    everything = np.arange(n_prompts)
    value, control = n_steered(everything), n_by_chance(everything)
    low, high = bootstrap(n_steered, n_prompts, seed)
    difference_low, difference_high = bootstrap(lambda at: n_steered(at) - n_by_chance(at), n_prompts, seed)
    return Measurement(
        "three_themes_steered", "of the themes science, transit, tourism: how many are steered", value, len(arms), N_THEMES,
        low=low, high=high, control=RANDOM, control_value=control, difference=value - control, difference_low=difference_low,
        difference_high=difference_high, why=f"three themes, a yes or no each; {n_prompts} prompts are resampled", **shared,
    )  # fmt: skip
