"""The measurements of the steering comparison, each over concepts and beside its control.

Shape legend: I concepts steered, J concepts looked for.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from sae_pipeline.resampling import bootstrap_mean, paired_difference, unpaired_difference
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.steering.concepts import Topic, committed
from sae_pipeline.survey.steering.methods import (
    BASELINE,
    BY_INPUT,
    CLAMP,
    FEW_FEATURE,
    FEW_MEANS,
    PROMPT_SIDE,
    RANDOM,
    RESPONSE_ONLY,
    UNSELECTED,
    Steerable,
)
from sae_pipeline.survey.steering.themes import measure_themes

ROWS, FIGURE = "steering_methods", "steering_methods"
NAMES = (  # what the checklist asks of this stage
    "clamp_over_random", "output_score_selection_gain", "prompt_side_over_response_only", "few_shot_wins", "three_themes_steered",
    "on_target_share", "repetition_at_100", "monotone_dose_share", "sweet_spot_width",
)  # fmt: skip
SCORE = "mean over concepts of the harmonic mean of concept, fluency and relevance"


class Comparison:
    """`report`: one row per concept and method, at the factor that the other half of the prompts chose."""

    def __init__(
        self, report: pl.DataFrame, texts: pl.DataFrame, found: Sequence[Steerable], n_attempted: int, size: int
    ) -> None:
        self.report, self.texts, self.found, self.n_attempted, self.size = report, texts, found, n_attempted, size
        self.names = [each.topic.name for each in found]

    def score(self, method: str, column: str = "score") -> np.ndarray:
        """One value per concept, in their order."""
        rows = self.report.filter(pl.col("control") == method)
        values = dict(zip(rows["concept"], rows[column], strict=True))
        return np.array([values[name] for name in self.names])

    def paired(self, name: str, method: str, control: str, seed: int) -> Measurement:
        """Mean score of a method minus that of another, over the same concepts."""
        ours, theirs = self.score(method), self.score(control)
        difference, low, high, n = paired_difference(ours, theirs, np.arange(len(ours)), seed)
        value, value_low, value_high = bootstrap_mean(ours, seed)
        return self._one(
            name, SCORE, value, n, low=value_low, high=value_high, control=control, control_value=float(theirs.mean()),
            difference=difference, difference_low=low, difference_high=high,
        )  # fmt: skip

    def all(self, seed: int) -> list[Measurement]:
        """Everything that the generated texts say."""
        return [
            self.paired("clamp_over_random", CLAMP, RANDOM, seed),
            self.paired("output_score_selection_gain", CLAMP, UNSELECTED, seed),
            self.paired("output_score_over_input_score", CLAMP, BY_INPUT, seed),
            self.paired("prompt_side_over_response_only", PROMPT_SIDE, RESPONSE_ONLY, seed),
            self.paired("both_sides_over_prompt_side", CLAMP, PROMPT_SIDE, seed),
            self.paired("both_sides_over_response_only", CLAMP, RESPONSE_ONLY, seed),
            self.paired("clamp_over_difference_of_means", CLAMP, "difference_of_means", seed),
            self._few(seed), self._themes(seed), self._on_target(seed),
        ]  # fmt: skip

    def _few(self, seed: int) -> Measurement:
        """Row 37: both from the same two sentences, the concept's words unknown to either. A win counts 1, a tie one half. The
        interval decides, not the share alone."""
        ours, theirs = self.score(FEW_FEATURE), self.score(FEW_MEANS)
        win_I = (ours > theirs) + 0.5 * (ours == theirs)
        _, low, high, n = paired_difference(win_I, np.zeros(len(win_I)), np.arange(len(win_I)), seed)
        return self._one(
            "few_shot_wins", "share of concepts on which the feature beats the difference of means of two examples",
            float(win_I.mean()), n, low=low, high=high, control="an even match", control_value=0.5,
            difference=float(win_I.mean()) - 0.5, difference_low=low - 0.5, difference_high=high - 0.5,
        )  # fmt: skip

    def _themes(self, seed: int) -> Measurement:
        """Row 30, on its three themes only."""
        topics = [each.topic for each in self.found if each.topic.theme]
        shared = {"size": self.size, "files_sha": committed(), "rows": ROWS, "figure": FIGURE}
        return measure_themes(self.texts, self.report, topics, seed, shared)

    def _on_target(self, seed: int) -> Measurement:
        """Row 34. Concepts are drawn with their own row of pairs; the bound that a diagonal must pass stays that of all pairs."""
        topics = [each.topic for each in self.found]
        ours, theirs = (on_target(effects(self.texts, self.report, topics, method)) for method in (CLAMP, RANDOM))
        difference, low, high, n = paired_difference(ours, theirs, np.arange(len(ours)), seed)
        value, value_low, value_high = bootstrap_mean(ours, seed)
        return self._one(
            "on_target_share", "share of concepts whose clamp raises its own words more than 95 % of all other pairs", value, n,
            low=value_low, high=value_high, control=RANDOM, control_value=float(theirs.mean()), difference=difference,
            difference_low=low, difference_high=high,
        )  # fmt: skip

    def extremes(self, seed: int) -> Measurement:
        """Row 31: repetition at a hundred times the maximum, either sign, beside unsteered texts. Features are resampled, then
        prompts of the unsteered texts: texts of one are alike."""
        far = self.texts.filter(pl.col("factor").abs() == 100)
        plain = self.texts.filter(pl.col("control") == BASELINE)
        by_feature, by_prompt = (
            rows.group_by(unit, maintain_order=True).agg(pl.col("repetition").mean())["repetition"].to_numpy()
            for rows, unit in ((far, "concept"), (plain, "prompt"))
        )
        drawn = unpaired_difference(by_feature, by_prompt, seed)
        return self._one(
            "repetition_at_100", "share of repeated 4-grams at 100 times the maximum, mean over features", drawn.value,
            len(by_feature), low=drawn.value_low, high=drawn.value_high, control="unsteered", control_value=drawn.control,
            difference=drawn.difference, difference_low=drawn.low, difference_high=drawn.high, n_attempted=len(by_feature),
            why=f"{len(far)} texts",
        )  # fmt: skip

    def _one(
        self, name: str, metric: str, value: float | None, n_scored: int, n_attempted: int | None = None, **beside
    ) -> Measurement:
        attempted = self.n_attempted if n_attempted is None else n_attempted
        return Measurement(
            name, metric, value, n_scored, attempted, self.size, files_sha=committed(), rows=ROWS, figure=FIGURE, **beside
        )


def effects(texts: pl.DataFrame, report: pl.DataFrame, topics: Sequence[Topic], method: str) -> np.ndarray:
    """I x J: share of the texts steered towards concept i that name concept j, minus the share of unsteered ones."""
    chosen = report.filter(pl.col("control") == method).select("concept", "factor")
    steered = texts.filter((pl.col("control") == method) & (pl.col("half") == "report")).join(chosen, on=["concept", "factor"])
    plain = texts.filter((pl.col("control") == BASELINE) & (pl.col("half") == "report"))["completion"].to_list()
    effect_IJ = np.zeros((len(topics), len(topics)))
    for i, steered_to in enumerate(topics):
        own = steered.filter(pl.col("concept") == steered_to.name)["completion"].to_list()
        for j, looked_for in enumerate(topics):
            said = [np.mean([looked_for.concept.in_text(text) for text in part]) for part in (own, plain)]
            effect_IJ[i, j] = said[0] - said[1]
    return effect_IJ


def on_target(effect_IJ: np.ndarray) -> np.ndarray:
    """Whether each of the diagonal lies above the 95th percentile of everything off it, 0 or 1 (checklist, row 34)."""
    off = effect_IJ[~np.eye(len(effect_IJ), dtype=bool)]
    return (np.diag(effect_IJ) > np.quantile(off, 0.95)).astype(float) if len(off) else np.zeros(len(effect_IJ))
