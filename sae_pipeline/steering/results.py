"""From generated texts to the three tables: what is fluent, which factors are chosen, scores, one summary row per feature."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import polars as pl

from sae_pipeline.steering import scores
from sae_pipeline.steering.fluency import is_fluent
from sae_pipeline.steering.interventions import Mode
from sae_pipeline.steering.plan import Chosen, Plan
from sae_pipeline.steering.prompts import Half, prompts_version
from sae_pipeline.steering.scores import Texts
from sae_pipeline.steering.selection import Drawn
from sae_pipeline.tables.schemas import conform

HALVES: tuple[Half, ...] = ("choose", "report")
FACTOR_CONTROLS = ("none", "random_feature", "random_direction")


def judged(texts: pl.DataFrame) -> pl.DataFrame:
    """Add `fluent`, each half against the unsteered texts of the same half."""
    frames = []
    for half in HALVES:
        rows = texts.filter(pl.col("half") == half)
        baseline = rows.filter(pl.col("control") == "baseline")
        nats, repeated = baseline["cross_entropy"].mean() or 0.0, baseline["repetition"].mean() or 0.0
        fluent = [
            is_fluent(row_nats, row_repeated, float(nats), float(repeated))  # pyright: ignore[reportArgumentType]
            for row_nats, row_repeated in zip(rows["cross_entropy"], rows["repetition"], strict=True)
        ]
        frames.append(rows.with_columns(fluent=pl.Series(fluent, dtype=pl.Boolean)))
    return pl.concat(frames)


def arm_rows(
    texts: pl.DataFrame, half: Half, control: str, mode: Mode | Literal["none"], drawn: Drawn, factor: float | None
) -> pl.DataFrame:
    """The generations that stand for one arm beside one feature."""
    made = {"random_direction": "add", "prompt_only": "none", "baseline": "none"}.get(control, mode)
    chosen = (pl.col("half") == half) & (pl.col("control") == control) & (pl.col("mode") == made)
    if control in ("none", "prompt_only"):
        chosen &= pl.col("target_feature") == drawn.feature
    if factor is not None:
        chosen &= pl.col("factor") == factor
    return texts.filter(chosen)


def choose(plan: Plan, texts: pl.DataFrame) -> Chosen:
    """Factors and instructions, from the choosing half alone."""
    factor: dict[tuple[str, str, int], float] = {}
    template: dict[int, int] = {}
    for drawn in plan.draw.targets:
        for mode in plan.modes:
            for control in FACTOR_CONTROLS:
                read = {
                    each: Texts.of(arm_rows(texts, "choose", control, mode, drawn, each), drawn.concept) for each in plan.choices
                }
                factor[control, mode, drawn.feature] = scores.choose_factor(read)
        asked = arm_rows(texts, "choose", "prompt_only", "none", drawn, None)
        by_template = {i: Texts.of(rows, drawn.concept) for (i,), rows in asked.group_by("unit_id", maintain_order=True)}
        template[drawn.feature] = max(by_template, key=lambda i: (by_template[i].quality, -i))
    return Chosen(factor, template)


def tables(plan: Plan, chosen: Chosen, texts: pl.DataFrame, size: int, seed: int) -> dict[str, pl.DataFrame]:
    """`steering_generations`, `steering_scores` and `steering_features` of one size, held to their schemas."""
    score_rows: list[dict[str, Any]] = []
    for drawn in plan.draw.targets:
        for row in _score_rows(plan, chosen, texts, drawn, seed):
            score_rows.append({"size": size, "target_feature": drawn.feature, **row})
    feature_rows = [{"size": size, **_feature_row(plan, chosen, texts, drawn, seed)} for drawn in plan.draw.targets]
    concept_of = {drawn.feature: drawn.concept for drawn in plan.draw.targets}
    hits = [
        None if target is None else concept_of[target].in_text(text)
        for target, text in zip(texts["target_feature"], texts["completion"], strict=True)
    ]
    frames = {
        "steering_generations": texts.with_columns(size=pl.lit(size), concept_hit=pl.Series(hits, dtype=pl.Boolean)),
        "steering_scores": pl.DataFrame(score_rows, infer_schema_length=None),
        "steering_features": pl.DataFrame(feature_rows, infer_schema_length=None),
    }
    return {name: conform(name, frame) for name, frame in frames.items()}


def _score_rows(plan: Plan, chosen: Chosen, texts: pl.DataFrame, drawn: Drawn, seed: int) -> Iterator[dict[str, Any]]:
    template = chosen.template[drawn.feature]
    texts = texts.filter((pl.col("control") != "prompt_only") | (pl.col("unit_id") == template))
    arms: list[tuple[str, Mode | Literal["none"], float | None]] = [
        (control, mode, factor) for mode in plan.modes for control in FACTOR_CONTROLS for factor in plan.factors
    ]
    for half in HALVES:
        for control, mode, factor in [*arms, ("baseline", "none", None), ("prompt_only", "none", None)]:
            read = Texts.of(arm_rows(texts, half, control, mode, drawn, factor), drawn.concept)
            for metric, interval in read.metrics(seed).items() if read.n else ():
                yield {"control": control, "mode": mode, "factor": factor, "half": half, "metric": metric, **asdict(interval)}


def _feature_row(plan: Plan, chosen: Chosen, texts: pl.DataFrame, drawn: Drawn, seed: int) -> dict[str, Any]:
    def report(control: str, factor: float) -> Texts:
        return Texts.of(arm_rows(texts, "report", control, "clamp", drawn, factor), drawn.concept)

    best = chosen.factor["none", "clamp", drawn.feature]
    ours, control = report("none", best), report("random_feature", chosen.factor["random_feature", "clamp", drawn.feature])
    low, high = scores.bootstrap_difference(ours, control, seed)
    sweet = scores.sweet_spot({factor: report("none", factor) for factor in plan.factors})
    return {
        "feature": drawn.feature, "selected_by": drawn.selected_by, "output_score": drawn.output_score,
        "concept_terms": list(drawn.concept.terms), "density": drawn.density, "best_factor": best,
        "sweet_low": sweet[0] if sweet else None, "sweet_high": sweet[1] if sweet else None,
        "concept_rate": ours.concept_rate, "control_rate": control.concept_rate,
        "ratio": ours.concept_rate / control.concept_rate, "difference": ours.concept_rate - control.concept_rate,
        "low": low, "high": high, "n": min(ours.n, control.n), "passes": scores.passes(ours, control, low),
    }  # fmt: skip


def metadata(plan: Plan, texts: pl.DataFrame, features: pl.DataFrame) -> dict[str, Any]:
    """Numbers for the asset's metadata."""
    steered = texts.filter((pl.col("control") == "none") & (pl.col("half") == "report"))
    return {
        "n_features_steered": len(plan.draw.targets),
        "n_features_passing": int(features["passes"].sum()),
        "n_features_outside_the_filters": plan.draw.n_lifted,
        "median_concept_rate": float(np.median(features["concept_rate"].to_numpy())),
        "median_control_rate": float(np.median(features["control_rate"].to_numpy())),
        "fluent_share": float(steered["fluent"].to_numpy().mean()),
        "n_texts": len(texts),
        "n_generated_tokens": int(texts["n_tokens"].sum()),
        "prompts_version": prompts_version(),
    }
