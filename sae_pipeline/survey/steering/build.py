"""The stage `steering_comparison`: every way of steering in one harness, over concepts that no method has seen the texts of.

1. every concept gets its directions and its feature from four sentences (`methods`), two for the few-shot methods;
2. choosing half of the prompts: every method at every factor; the best score decides;
3. reporting half: every method at its factor, the prompt that asks for the concept, and +-100;
4. dose curves (`dose`), and what clamps cost in multiple choice and on held-out text (`cost`), by log-probabilities.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.plots.figure import write_figure
from sae_pipeline.plots.steering_methods import doses_figure, effects_figure, methods_figure
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.generation import Arm, Generator, Request
from sae_pipeline.steering.interventions import Positions
from sae_pipeline.steering.plan import of_half
from sae_pipeline.steering.prompts import Prompt, load_prompts
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey import SteeringComparison
from sae_pipeline.survey.measurement import Measurement, too_few, write_measurements
from sae_pipeline.survey.steering.concepts import committed, read_topics
from sae_pipeline.survey.steering.dose import DOSES
from sae_pipeline.survey.steering.dose_results import COSTS, held_out_blocks, measure_doses
from sae_pipeline.survey.steering.methods import BASELINE, CLAMP, METHODS, RANDOM, Steerable, make_steerable, steered_at
from sae_pipeline.survey.steering.off_target import EFFECTS, effect_rows
from sae_pipeline.survey.steering.results import FAR, FIGURE, NAMES, ROWS, TEXTS, Comparison
from sae_pipeline.survey.steering.scoring import scored, summary
from sae_pipeline.survey.thresholds import thresholds
from sae_pipeline.tables.schemas import conform, empty

STAGE, PARTS = "steering_comparison", "parts"
STEERED: tuple[Positions, ...] = ("not_massive", "prompt", "response")
Best = dict[tuple[str, str], float]


def build_steering_comparison(
    lm: LanguageModel,
    corpus: CorpusReader,
    sae_folder: Path,
    feature_stats: Path,
    settings: SteeringComparison,
    size: int,
    work: Path,
) -> Outcome:
    """Write the five tables of this stage, the measurements and the figures into `work`.

    Finished batches of a killed run are used again. Raises `UserError` for more concepts or prompts than there are.
    """
    sae = SparseAutoencoder.load(sae_folder)
    facts = pl.read_parquet(feature_stats / "features.parquet").sort("feature")
    maximum_F = torch.from_numpy(facts["max_activation"].to_numpy().astype(np.float32))
    topics, neutral = read_topics(settings.n_concepts)
    found, missing = make_steerable(lm, sae, maximum_F, topics, neutral, settings.seed)
    if len(found) < thresholds().steered_concepts_needed:
        return _nothing(work, size, len(found), len(topics))
    prompts = load_prompts(settings.n_prompts)
    embedder = SentenceEmbedder()

    def generator(positions: Positions) -> Generator:
        return Generator(
            lm, sae, work / PARTS, settings.max_new_tokens, 0.7, positions, settings.seed, "steering comparison", batch_rows=256
        )

    def generated(name: str, requests: Sequence[Request]) -> pl.DataFrame:
        def of(at: Positions) -> list[Request]:
            return [each for each in requests if steered_at(each.arm.control) == at]

        return pl.concat([generator(at).run(f"{name}_{at}", of(at)) for at in STEERED])

    choosing = generated("choosing", choosing_requests(found, prompts, settings.factors))
    best = best_factors(summary(scored(choosing, topics, prompts, embedder)))
    reporting = generated("reporting", reporting_requests(found, prompts, best, settings.samples_per_prompt))
    texts = scored(pl.concat([choosing, reporting]), topics, prompts, embedder)
    report = summary(texts.filter((pl.col("half") == "report") & (pl.col("factor").abs().fill_null(0) < FAR)))
    comparison = Comparison(report, texts, found, len(topics), size)
    doses = measure_doses(lm, sae, maximum_F, found, held_out_blocks(corpus, settings), settings)
    measured = [*comparison.all(settings.seed), *comparison.extremes(settings.seed), *doses.measured]
    by_method = comparison.effects()
    _write(work, texts, report, found, size)
    tables = {COSTS: doses.costs, DOSES: doses.curves, EFFECTS: effect_rows(by_method, [each.topic for each in found], size)}
    for name, rows in tables.items():
        conform(name, rows).write_parquet(work / f"{name}.parquet", compression="zstd")
    write_measurements(work, STAGE, measured)
    write_figure(work, FIGURE, lambda theme: methods_figure(report, theme))
    write_figure(work, DOSES, lambda theme: doses_figure(doses.curves, theme))
    write_figure(work, EFFECTS, lambda theme: effects_figure(by_method, comparison.names, theme))
    shutil.rmtree(work / PARTS)
    return Outcome({
        "n_concepts": len(found), "n_generated_tokens": int(texts["n_tokens"].sum()), "without_feature": ", ".join(missing),
        "clamp_score": float(comparison.score(CLAMP).mean()), "clamp_over_random": float(measured[0].difference or 0),
    })  # fmt: skip


def _nothing(work: Path, size: int, n_found: int, n_concepts: int) -> Outcome:
    """Empty tables, and every measurement as one that could not be taken."""
    needed = thresholds().steered_concepts_needed
    why = f"features fire on {n_found} of {n_concepts} concepts, {needed} are needed to compare"
    for name in (ROWS, COSTS, DOSES, EFFECTS, TEXTS):
        empty(name).write_parquet(work / f"{name}.parquet")
    sha = committed()
    write_measurements(work, STAGE, [
        Measurement(
            name, "not measured", None, 0, n_concepts, size, why=why, files_sha=sha,
            **too_few("concepts on which features fire", n_found, needed),
        )
        for name in NAMES
    ])  # fmt: skip
    return Outcome({"n_concepts": 0, "n_generated_tokens": 0, "without_feature": why})


def choosing_requests(found: Sequence[Steerable], prompts: Sequence[Prompt], factors: Sequence[float]) -> list[Request]:
    """Unsteered texts, and every method of every concept at every factor, once per choosing prompt."""
    asked = of_half(prompts, "choose")
    arms = [Arm(BASELINE), *(each.arm(method, factor) for each in found for method in METHODS for factor in factors)]
    return [Request(arm, prompt, 0) for arm in arms for prompt in asked]


def reporting_requests(found: Sequence[Steerable], prompts: Sequence[Prompt], best: Best, n_samples: int) -> list[Request]:
    """Every method at its factor, the prompt that asks for the concept, +-100 (of the random direction, too), and
    unsteered texts."""
    asked = of_half(prompts, "report")
    arms = [each.arm(method, best[each.topic.name, method]) for each in found for method in METHODS]
    arms += [each.asked() for each in found]
    far = [each.arm(method, sign * FAR) for each in found for method in (CLAMP, RANDOM) for sign in (-1, 1)]
    several = [Request(arm, prompt, i) for arm in [Arm(BASELINE), *arms] for prompt in asked for i in range(n_samples)]
    return several + [Request(arm, prompt, 0) for arm in far for prompt in asked[:2]]


def best_factors(choosing: pl.DataFrame) -> Best:
    """{(concept, method): factor of the best score on the choosing half}; of equals the smallest."""
    ordered = choosing.sort("score", "factor", descending=[True, False]).unique(
        ["concept", "control"], keep="first", maintain_order=True
    )
    return {(row["concept"], row["control"]): row["factor"] for row in ordered.iter_rows(named=True)}


def _write(work: Path, texts: pl.DataFrame, report: pl.DataFrame, found: Sequence[Steerable], size: int) -> None:
    feature = {(each.topic.name, method): each.arm(method, 1.0).feature for each in found for method in METHODS}
    methods = report.with_columns(
        pl.lit(size).alias("size"), pl.col("control").alias("method"),
        pl.Series("feature", [feature.get(key) for key in report.select("concept", "control").iter_rows()], dtype=pl.Int32),
    ).drop("control", "half")  # fmt: skip
    conform(ROWS, methods).write_parquet(work / f"{ROWS}.parquet", compression="zstd")
    said = texts.with_columns(pl.lit(size).alias("size"), pl.col("control").alias("method")).drop(
        "control", "unit_id", "target_feature"
    )
    conform(TEXTS, said).write_parquet(work / f"{TEXTS}.parquet", compression="zstd")
