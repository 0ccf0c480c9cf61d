"""The measurements of the steering comparison, each over concepts and beside its control. Shape legend: I concepts."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from sae_pipeline.resampling import bootstrap_mean, paired_difference, unpaired_difference
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.steering.concepts import committed
from sae_pipeline.survey.steering.features import N_CANDIDATES
from sae_pipeline.survey.steering.mark import measure_mark
from sae_pipeline.survey.steering.methods import (
    BASELINE,
    BY_INPUT,
    CLAMP,
    FEW_FEATURE,
    FEW_MEANS,
    PROMPT_ONLY,
    PROMPT_SIDE,
    RANDOM,
    RESPONSE_ONLY,
    UNSELECTED,
    Steerable,
)
from sae_pipeline.survey.steering.off_target import COMPARED, EFFECTS, effects, on_target
from sae_pipeline.survey.steering.themes import measure_themes

ROWS, FIGURE, TEXTS = "steering_methods", "steering_methods", "comparison_texts"
FAR = 100.0  # times the maximum: row 31
DRAWN = f"the mean of {len(UNSELECTED)} of the {N_CANDIDATES} candidates drawn at random"
NAMES = (  # what the checklist asks of this stage
    "clamp_over_random", "output_score_selection_gain", "output_score_over_input_score", "steering_passes_over_random_directions",
    "prompt_side_over_response_only", "few_shot_wins", "three_themes_steered",
    "on_target_share", "repetition_at_100", "monotone_dose_share", "monotone_dose_share_over_random_direction",
    "sweet_spot_width", "sweet_spot_width_all_questions",
)  # fmt: skip
OTHERS = ("difference_of_means", "sae_add", "probe", "pca", PROMPT_ONLY)  # no row asks about these
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

    def paired(
        self, name: str, method: str, controls: Sequence[str], seed: int, called: str | None = None
    ) -> Measurement:  # fmt: skip
        """Mean score of a method minus that of another (of several: of their mean), over the same concepts."""
        ours, theirs = self.score(method), np.mean([self.score(control) for control in controls], axis=0)
        difference, low, high, n = paired_difference(ours, theirs, np.arange(len(ours)), seed)
        value, value_low, value_high = bootstrap_mean(ours, seed)
        return self._one(
            name, SCORE, value, n, low=value_low, high=value_high, control=called or controls[0],
            control_value=float(theirs.mean()), difference=difference, difference_low=low, difference_high=high,
        )  # fmt: skip

    def all(self, seed: int) -> list[Measurement]:
        """Everything that the generated texts say."""
        return [
            self.paired("clamp_over_random", CLAMP, [RANDOM], seed),
            self.paired("output_score_selection_gain", CLAMP, UNSELECTED, seed, DRAWN),
            self.paired("output_score_over_input_score", CLAMP, [BY_INPUT], seed),
            self.paired("prompt_side_over_response_only", PROMPT_SIDE, [RESPONSE_ONLY], seed),
            self.paired("both_sides_over_prompt_side", CLAMP, [PROMPT_SIDE], seed),
            self.paired("both_sides_over_response_only", CLAMP, [RESPONSE_ONLY], seed),
            *self.over_others(seed),
            self._few(seed), self._themes(seed), self._mark(seed), self._on_target(seed),
        ]  # fmt: skip

    def over_others(self, seed: int) -> list[Measurement]:
        """The clamp beside every other way of steering towards a concept, the prompt that asks for it among them."""
        return [self.paired(f"clamp_over_{method}", CLAMP, [method], seed) for method in OTHERS]

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

    def _mark(self, seed: int) -> Measurement:
        """Row 29, with the null's choice repeated."""
        shared = {"size": self.size, "files_sha": committed(), "rows": TEXTS, "figure": FIGURE, "n_attempted": self.n_attempted}
        return measure_mark(self.texts, self.report, [each.topic for each in self.found], seed, shared)

    def effects(self) -> dict[str, np.ndarray]:
        """{method: matrix of its effects}, of the clamp and the random direction."""
        topics = [each.topic for each in self.found]
        return {method: effects(self.texts, self.report, topics, method) for method in COMPARED}

    def _on_target(self, seed: int) -> Measurement:
        """Row 34. Concepts are drawn with their own row of pairs; the bound that a diagonal must pass stays that of all pairs."""
        by_method = self.effects()
        ours, theirs = (on_target(by_method[method]) for method in (CLAMP, RANDOM))
        difference, low, high, n = paired_difference(ours, theirs, np.arange(len(ours)), seed)
        value, value_low, value_high = bootstrap_mean(ours, seed)
        return Measurement(
            "on_target_share", "share of concepts whose clamp raises its own words more than 95 % of all other pairs", value, n,
            self.n_attempted, self.size, low=value_low, high=value_high, control=RANDOM, control_value=float(theirs.mean()),
            difference=difference, difference_low=low, difference_high=high, files_sha=committed(), rows=EFFECTS, figure=EFFECTS,
        )  # fmt: skip

    def extremes(self, seed: int) -> list[Measurement]:
        """Row 31: repetition at a hundred times the maximum, either sign, beside unsteered texts, and beside the random direction
        at the same strength. Features are resampled, then prompts of the unsteered texts: texts of one are alike."""
        far, beside = (
            self.texts.filter((pl.col("factor").abs() == FAR) & (pl.col("control") == method)) for method in (CLAMP, RANDOM)
        )
        plain = self.texts.filter(pl.col("control") == BASELINE)
        by_feature, by_direction, by_prompt = (
            rows.group_by(unit, maintain_order=True).agg(pl.col("repetition").mean())["repetition"].to_numpy()
            for rows, unit in ((far, "concept"), (beside, "concept"), (plain, "prompt"))
        )
        metric = f"share of repeated 4-grams at {FAR:g} times the maximum, mean over features"
        over_plain, over_direction = (unpaired_difference(by_feature, other, seed) for other in (by_prompt, by_direction))
        why = (
            f"{len(far)} texts; a random direction of the same strength repeats {over_direction.control:.3f} (feature minus "
            f"direction {over_direction.difference:.3f}, {over_direction.low:.3f} to {over_direction.high:.3f})"
        )
        if over_direction.low <= 0:
            why += ": the feature repeats no more than a direction of this strength, as far as the interval tells"
        return [
            self._one(
                name, metric, drawn.value, len(by_feature), low=drawn.value_low, high=drawn.value_high, control=control,
                control_value=drawn.control, difference=drawn.difference, difference_low=drawn.low, difference_high=drawn.high,
                n_attempted=len(by_feature), why=why,
            )
            for name, control, drawn in (
                ("repetition_at_100", "unsteered", over_plain),
                ("repetition_at_100_over_random_direction", RANDOM, over_direction),
            )
        ]  # fmt: skip

    def _one(
        self, name: str, metric: str, value: float | None, n_scored: int, n_attempted: int | None = None, **beside
    ) -> Measurement:
        attempted = self.n_attempted if n_attempted is None else n_attempted
        return Measurement(
            name, metric, value, n_scored, attempted, self.size, files_sha=committed(), rows=ROWS, figure=FIGURE, **beside
        )
