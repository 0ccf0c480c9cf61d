"""The stage `steering_evals`: draw features, steer them beside controls, choose factors on one half, report on the other.

1. features, control features and concept terms are drawn before anything is generated (`selection`, `concepts`);
2. choosing half: every arm at every factor; each feature and each of its controls gets the factor of its own best quality;
3. reporting half: the chosen factors, and the other factors lightly for the dose curve;
4. scores, intervals and the pass mark, from the reporting half only.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering import plan, scores
from sae_pipeline.steering.concepts import CorpusWords
from sae_pipeline.steering.fluency import is_fluent
from sae_pipeline.steering.generation import Arm, Generator, Request
from sae_pipeline.steering.interventions import Mode, random_directions
from sae_pipeline.steering.prompts import Half, Prompt, load_prompts, prompts_version
from sae_pipeline.steering.scores import Texts
from sae_pipeline.steering.selection import Draw, Drawn, draw_features
from sae_pipeline.store import Outcome
from sae_pipeline.study import Steer
from sae_pipeline.tables.schemas import conform

PARTS = "parts"
CONTROL_KINDS = ("random_feature", "random_direction", "prompt_only")


@dataclass(frozen=True)
class Evals:
    """One run: what was drawn, the prompts, and the settings."""

    draw: Draw
    prompts: list[Prompt]
    modes: list[Mode]
    factors: list[float]
    amounts: plan.Amounts
    directions_UD: torch.Tensor
    generator: Generator

    # --- arms

    def arms(self, control: str, mode: Mode, factor: float) -> list[Arm]:
        """The shared arms of a control kind at one factor."""
        if control == "random_feature":
            return [plan.control_arm(drawn, mode, factor) for drawn in self.draw.controls]
        targets = self.draw.targets
        return [
            plan.direction_arm(unit, direction_D, targets[unit % len(targets)].maximum, factor)
            for unit, direction_D in enumerate(self.directions_UD)
        ]

    @property
    def choices(self) -> list[float]:
        """Factors that may be chosen: above zero (a concept is asked for, not avoided); all when there is none."""
        return [factor for factor in self.factors if factor > 0] or self.factors

    # --- requests

    def baseline_requests(self) -> list[Request]:
        """Unsteered texts of both halves."""
        per_prompt = {"choose": plan.CHOOSE_PER_PROMPT, "report": self.amounts.samples_per_prompt}
        return [Request(Arm("baseline"), prompt, i) for prompt in self.prompts for i in range(per_prompt[prompt.half])]

    def choosing_requests(self) -> list[Request]:
        """Every arm at every factor that may be chosen."""
        prompts, n, per_prompt = plan.of_half(self.prompts, "choose"), self.amounts.choose_samples, plan.CHOOSE_PER_PROMPT
        requests: list[Request] = []
        for i, drawn in enumerate(self.draw.targets):
            for arm in plan.prompt_arms(drawn):
                requests += plan.spread(arm, prompts, n, per_prompt, first=i)
            for mode in self.modes:
                for factor in self.choices:
                    requests += plan.spread(plan.feature_arm(drawn, mode, factor), prompts, n, per_prompt, first=i)
        for factor in self.choices:
            requests += plan.pool_requests(self.arms("random_direction", "add", factor), prompts, n)
            for mode in self.modes:
                requests += plan.pool_requests(self.arms("random_feature", mode, factor), prompts, n)
        return requests

    def reporting_requests(self, chosen: "Chosen") -> list[Request]:
        """Every arm at the factor chosen for it; clamped features at the other factors too."""
        prompts, amounts = plan.of_half(self.prompts, "report"), self.amounts
        n_full, n_thin = amounts.samples_per_prompt * len(prompts), plan.THIN_SAMPLES * len(prompts)
        requests: list[Request] = []
        for i, drawn in enumerate(self.draw.targets):
            if (template := chosen.template.get(drawn.feature)) is not None:
                requests += plan.spread(plan.prompt_arms(drawn)[template], prompts, n_thin, plan.THIN_SAMPLES, first=i)
            for mode in self.modes:
                best = chosen.factor["none", mode, drawn.feature]
                full = mode == "clamp" and (drawn.feature in chosen.promising or drawn.selected_by == "requested")
                per_prompt = amounts.samples_per_prompt if full else min(plan.THIN_SAMPLES, amounts.samples_per_prompt)
                arm = plan.feature_arm(drawn, mode, best)
                requests += plan.spread(arm, prompts, per_prompt * len(prompts), per_prompt, first=i)
                for factor in self.factors:
                    if mode == "clamp" and factor != best:
                        requests += plan.spread(plan.feature_arm(drawn, mode, factor), prompts, amounts.dose_samples, 1, first=i)
        for mode in self.modes:
            for factor in chosen.factors_of("random_feature", mode):
                requests += plan.pool_requests(self.arms("random_feature", mode, factor), prompts, n_full)
        wanted = {factor for mode in self.modes for factor in chosen.factors_of("random_direction", mode)}
        for factor in sorted(wanted):
            requests += plan.pool_requests(self.arms("random_direction", "add", factor), prompts, n_thin)
        return requests

    # --- reading

    def rows(self, texts: pl.DataFrame, half: Half, control: str, mode: Mode, drawn: Drawn, factor: float | None) -> pl.DataFrame:
        """The generations that stand for one arm beside one feature."""
        made = {"random_direction": "add", "prompt_only": "none", "baseline": "none"}.get(control, mode)
        chosen = (pl.col("half") == half) & (pl.col("control") == control) & (pl.col("mode") == made)
        if control in ("none", "prompt_only"):
            chosen &= pl.col("target_feature") == drawn.feature
        if factor is not None:
            chosen &= pl.col("factor") == factor
        return texts.filter(chosen)


@dataclass(frozen=True)
class Chosen:
    """What the choosing half decided: factor by (control, mode, target), instruction by target, targets worth measuring fully."""

    factor: dict[tuple[str, str, int], float]
    template: dict[int, int]
    promising: frozenset[int]

    def factors_of(self, control: str, mode: str) -> list[float]:
        """The factors that any feature chose for this control."""
        return sorted({factor for (kind, its_mode, _), factor in self.factor.items() if (kind, its_mode) == (control, mode)})


def build_steering_evals(
    lm: LanguageModel,
    corpus: CorpusReader,
    feature_stats: Path,
    sae_folder: Path,
    steer: Steer,
    n_features: int,
    size: int,
    is_largest: bool,
    work: Path,
) -> Outcome:
    """Write `steering_generations`, `steering_scores` and `steering_features` into `work`.

    `n_features`: how many features to draw (ignored when the study names features). Clamping on every size, addition on the
    largest too. Finished batches of a killed run are used again. Raises `UserError` when no feature can be steered.
    """
    sae = SparseAutoencoder.load(sae_folder)
    words = CorpusWords.build(corpus.token_ids_BT, corpus.doc_ids_BT, corpus.held_out_B, corpus.token_text, lm.decode)
    draw = draw_features(
        pl.read_parquet(feature_stats / "features.parquet"),
        SparseActivations.open(feature_stats / "activations_train.parquet"),
        words, lm, sae, n_features, steer.n_controls, steer.features, steer.seed,
    )  # fmt: skip
    evals = Evals(
        draw=draw,
        prompts=load_prompts(steer.n_prompts),
        modes=["clamp", "add"] if is_largest else ["clamp"],
        factors=sorted(set(steer.factors)),
        amounts=plan.Amounts(steer.choose_samples, steer.samples_per_prompt, steer.dose_samples),
        directions_UD=random_directions(steer.n_controls, lm.d_model, torch.Generator().manual_seed(steer.seed)),
        generator=Generator(
            lm, sae, work / PARTS, steer.max_new_tokens, steer.temperature, steer.positions, steer.seed, f"steering {size}"
        ),
    )
    baseline = evals.generator.run("baseline", evals.baseline_requests())
    choosing = _judged(pl.concat([baseline, evals.generator.run("choosing", evals.choosing_requests())]))
    chosen = choose(evals, choosing)
    reported = evals.generator.run("reporting", evals.reporting_requests(chosen))
    texts = _judged(pl.concat([choosing.drop("fluent"), reported]))
    return _write(evals, chosen, texts, size, steer.seed, work)


def choose(evals: Evals, texts: pl.DataFrame) -> Chosen:
    """Factors, instructions and promising features, from the choosing half alone."""
    factor: dict[tuple[str, str, int], float] = {}
    template: dict[int, int] = {}
    promising: set[int] = set()
    for drawn in evals.draw.targets:
        for mode in evals.modes:
            for control in ("none", "random_feature", "random_direction"):
                read = {
                    each: Texts.of(evals.rows(texts, "choose", control, mode, drawn, each), drawn.concept)
                    for each in evals.choices
                }
                best = factor[control, mode, drawn.feature] = scores.choose_factor(read)
                if control == "none" and mode == "clamp" and read[best].hit_N.sum() >= plan.PROMISING_HITS:
                    promising.add(drawn.feature)
        asked = evals.rows(texts, "choose", "prompt_only", "clamp", drawn, None)
        by_template = {i: Texts.of(rows, drawn.concept) for (i,), rows in asked.group_by("unit_id", maintain_order=True)}
        if by_template:
            template[drawn.feature] = max(by_template, key=lambda i: (by_template[i].quality, -i))
    return Chosen(factor, template, frozenset(promising))


def _judged(texts: pl.DataFrame) -> pl.DataFrame:
    """Add `fluent`, each half against the unsteered texts of the same half."""
    frames = []
    for half in ("choose", "report"):
        rows = texts.filter(pl.col("half") == half)
        baseline = rows.filter(pl.col("control") == "baseline")
        nats, repeated = baseline["cross_entropy"].mean() or 0.0, baseline["repetition"].mean() or 0.0
        fluent = [
            is_fluent(row_nats, row_repeated, float(nats), float(repeated))  # pyright: ignore[reportArgumentType]
            for row_nats, row_repeated in zip(rows["cross_entropy"], rows["repetition"], strict=True)
        ]
        frames.append(rows.with_columns(fluent=pl.Series(fluent, dtype=pl.Boolean)))
    return pl.concat(frames)


def _write(evals: Evals, chosen: Chosen, texts: pl.DataFrame, size: int, seed: int, work: Path) -> Outcome:
    score_rows, feature_rows = [], []
    for drawn in evals.draw.targets:
        for row in _score_rows(evals, chosen, texts, drawn, seed):
            score_rows.append({"size": size, "target_feature": drawn.feature, **row})
        feature_rows.append({"size": size, **_feature_row(evals, chosen, texts, drawn, seed)})
    concepts = {drawn.feature: drawn.concept for drawn in evals.draw.targets}
    hits = [
        concepts[target].in_text(text) if target is not None else None
        for target, text in zip(texts["target_feature"], texts["completion"], strict=True)
    ]
    generations = texts.with_columns(size=pl.lit(size), concept_hit=pl.Series(hits, dtype=pl.Boolean))
    # Explicit: inference from the first rows would take a leading null for the type.
    tables = {
        "steering_generations": generations,
        "steering_scores": pl.DataFrame(score_rows, infer_schema_length=None),
        "steering_features": pl.DataFrame(feature_rows, infer_schema_length=None),
    }
    for name, frame in tables.items():
        conform(name, frame).write_parquet(work / f"{name}.parquet")
    shutil.rmtree(work / PARTS)
    return Outcome(_metadata(evals, texts, tables["steering_features"]))


def _score_rows(evals: Evals, chosen: Chosen, texts: pl.DataFrame, drawn: Drawn, seed: int):
    for half in ("choose", "report"):
        for mode in evals.modes:
            for control in ("none", "random_feature", "random_direction"):
                for factor in evals.factors:
                    yield from _metric_rows(evals, texts, drawn, half, control, mode, factor, seed)
        yield from _metric_rows(evals, texts, drawn, half, "baseline", "none", None, seed)
        template = chosen.template.get(drawn.feature)
        asked = texts.filter((pl.col("control") != "prompt_only") | (pl.col("unit_id") == template))
        yield from _metric_rows(evals, asked, drawn, half, "prompt_only", "none", None, seed)


def _metric_rows(evals: Evals, texts: pl.DataFrame, drawn: Drawn, half: Half, control: str, mode, factor, seed: int):
    read = Texts.of(evals.rows(texts, half, control, mode, drawn, factor), drawn.concept)
    if not read.n:
        return
    for metric, interval in read.metrics(seed).items():
        yield {
            "control": control, "mode": mode, "factor": factor, "half": half, "metric": metric, "value": interval.value,
            "low": interval.low, "high": interval.high, "n": interval.n,
        }  # fmt: skip


def _feature_row(evals: Evals, chosen: Chosen, texts: pl.DataFrame, drawn: Drawn, seed: int) -> dict:
    def report(control: str, factor: float | None) -> Texts:
        return Texts.of(evals.rows(texts, "report", control, "clamp", drawn, factor), drawn.concept)

    best = chosen.factor["none", "clamp", drawn.feature]
    ours, control = report("none", best), report("random_feature", chosen.factor["random_feature", "clamp", drawn.feature])
    low, high = scores.bootstrap_difference(ours, control, seed)
    sweet = scores.sweet_spot({factor: report("none", factor) for factor in evals.factors})
    return {
        "feature": drawn.feature, "selected_by": drawn.selected_by, "output_score": drawn.output_score,
        "concept_terms": list(drawn.concept.terms), "density": drawn.density, "best_factor": best,
        "sweet_low": sweet[0] if sweet else None, "sweet_high": sweet[1] if sweet else None,
        "concept_rate": ours.concept_rate, "control_rate": control.concept_rate, "ratio": ours.concept_rate / control.concept_rate,
        "difference": ours.concept_rate - control.concept_rate, "low": low, "high": high, "n": min(ours.n, control.n),
        "passes": scores.passes(ours, control, low),
    }  # fmt: skip


def _metadata(evals: Evals, texts: pl.DataFrame, features: pl.DataFrame) -> dict:
    own = texts.filter((pl.col("control") == "none") & (pl.col("half") == "report"))
    return {
        "n_features_steered": len(evals.draw.targets),
        "n_features_passing": int(features["passes"].sum()),
        "n_features_outside_the_filters": evals.draw.lifted,
        "median_concept_rate": float(np.median(features["concept_rate"].to_numpy())),
        "median_control_rate": float(np.median(features["control_rate"].to_numpy())),
        "fluent_share": float(own["fluent"].mean()),  # pyright: ignore[reportArgumentType]
        "n_texts": len(texts),
        "n_generated_tokens": int(texts["n_tokens"].sum()),
        "prompts_version": prompts_version(),
    }


def examples(generations: pl.DataFrame, features: pl.DataFrame, n: int) -> list[dict[str, object]]:
    """Before/after pairs of the `n` best features: the same prompt unsteered and at the chosen factor, on the reporting half.

    The pair shown is the first fluent text with the concept, else the first text: an illustration, never a measurement.
    """
    best: Sequence[dict] = features.sort("passes", "difference", descending=True).head(n).to_dicts()
    unsteered = generations.filter((pl.col("control") == "baseline") & (pl.col("half") == "report"))
    pairs: list[dict[str, object]] = []
    for row in best:
        steered = generations.filter(
            (pl.col("control") == "none") & (pl.col("half") == "report") & (pl.col("mode") == "clamp")
            & (pl.col("feature") == row["feature"]) & (pl.col("factor") == row["best_factor"])
        ).sort("concept_hit", "fluent", descending=True, maintain_order=True)  # fmt: skip
        if steered.is_empty():
            continue
        after = steered.row(0, named=True)
        before = unsteered.filter(pl.col("prompt_id") == after["prompt_id"]).row(0, named=True)
        pairs.append({
            "feature": row["feature"], "factor": row["best_factor"], "concept_terms": row["concept_terms"],
            "prompt": after["prompt"], "before": before["completion"], "after": after["completion"],
        })  # fmt: skip
    return pairs
