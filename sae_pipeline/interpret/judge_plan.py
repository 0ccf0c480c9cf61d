"""What asking the judge would take: calls, tokens and dollars, before anything is sent.

The number of calls follows from the study; where a size's statistics exist, windows are counted instead of assumed. Tokens per
call are what earlier calls with the same prompt took (the ledger knows), before the first ones an estimate from lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import polars as pl

from sae_pipeline.interpret import llm_explainer
from sae_pipeline.interpret.build_specificity import N_DECOYS
from sae_pipeline.interpret.explanation_scores import N_DECOYS as N_DETECTION_DECOYS
from sae_pipeline.interpret.judge_calibration import n_labels
from sae_pipeline.interpret.judged_explanations import N_FUZZED_PER_INTERVAL
from sae_pipeline.interpret.judged_specificity import N_REPEATED_FEATURES
from sae_pipeline.interpret.llm_scorers import DETECTION, FUZZING, RUBRIC
from sae_pipeline.interpret.prompts import load_prompt
from sae_pipeline.interpret.windows import REACH
from sae_pipeline.judge.ledger import read_calls
from sae_pipeline.judge.open import ledger_folder, price_for
from sae_pipeline.judge.prices import NANO_PER_USD
from sae_pipeline.judge.reply import Usage
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Study
from sae_pipeline.tables.columns import N_INTERVALS

# Rough sizes in tokens, used only until the ledger has seen a prompt.
TOKENS_PER_CORPUS_TOKEN = 1.3
MARKUP_PER_EXAMPLE = 10
SCHEMA_PER_EXAMPLE, SCHEMA = 30, 80
BYTES_PER_TOKEN = 4
OUTPUT = {RUBRIC: 30, DETECTION: 10, FUZZING: 10, llm_explainer.PROMPT: 120}  # per example; per call for the explainer
MIN_SEEN = 20


@dataclass(frozen=True)
class Load:
    """Calls with one prompt, and the examples in all of them."""

    prompt: str
    n_calls: int
    n_examples: int


@dataclass(frozen=True)
class JudgePlan:
    """Everything that the plan prints about the judge; dollars are expectations, the cap is what holds."""

    backend: str
    model: str
    n_calls: int
    n_tokens_input: int
    n_tokens_output: int
    usd: float
    usd_batch: float
    prices_of: str
    spent_usd: float
    budget_usd: float | None
    measured: bool
    """Every prompt's tokens come from earlier calls."""


def plan_judge(store: ArtifactStore, sizes: Sequence[int]) -> JudgePlan | None:
    """The plan for the stages of `sizes`, answers that the ledger may already hold not subtracted; None without a judge.

    Raises `UserError` for a model without a price.
    """
    study = store.study
    if study.judge.backend == "none":
        return None
    assert study.judge.model is not None
    price = price_for(study.judge)
    calls = read_calls(ledger_folder(store.root))
    loads = [load for size in sizes for load in loads_of(study, size, store.path("feature_stats", size))]
    n_input, n_output, measured = 0.0, 0.0, True
    for load in loads:
        seen = calls.filter(pl.col("status") == "ok", pl.col("prompt") == load.prompt, pl.col("model") == study.judge.model)
        if seen.height >= MIN_SEEN:
            n_input += load.n_calls * float(seen["input_tokens"].mean() or 0)  # pyright: ignore[reportArgumentType]
            n_output += load.n_calls * float(seen["output_tokens"].mean() or 0)  # pyright: ignore[reportArgumentType]
        else:
            measured = False
            n_input += _assumed_input(load)
            n_output += OUTPUT[load.prompt] * (load.n_calls if load.prompt == llm_explainer.PROMPT else load.n_examples)
    # Summed as if it were one call, so the surcharge for long prompts must not apply: no single call here is long.
    usage = Usage(round(n_input), round(n_output))
    flat = type(price)(price.input, price.output, price.cache_write, price.cache_read, batch_factor=price.batch_factor)
    return JudgePlan(
        study.judge.backend, study.judge.model, sum(load.n_calls for load in loads), usage.input, usage.output,
        flat.cost_nano(usage) / NANO_PER_USD, flat.cost_nano(usage, batch=True) / NANO_PER_USD, price.as_of,
        float(calls["cost_usd"].sum()), study.judge.budget_usd, measured,
    )  # fmt: skip


def loads_of(study: Study, size: int, feature_stats: Path) -> list[Load]:
    """Calls of one size by prompt."""
    score, explain, per_call = study.score, study.explain, study.score.examples_per_call
    n_live, per_interval = _live_features(feature_stats, size)
    n_scored = min(n_live, len(score.features) if score.features else score.n_features)
    n_controls = score.n_controls + min(score.n_controls, study.activations.n_neurons)
    loads: list[Load] = []
    if explain.method == "llm":
        n_explained = min(explain.n_judged or n_live, len(explain.features) if explain.features else n_live)
        n_units = 2 * min(n_scored, n_explained) + n_controls  # matched and shuffled
        excerpts = llm_explainer.N_TOP + llm_explainer.N_PER_INTERVAL * N_INTERVALS + llm_explainer.N_INACTIVE
        loads.append(Load(llm_explainer.PROMPT, n_explained + n_controls, (n_explained + n_controls) * excerpts))
        loads.append(_windows(DETECTION, n_units, per_interval(1) + 2 * N_DETECTION_DECOYS, per_call))
        loads.append(_windows(FUZZING, n_units, per_interval(N_FUZZED_PER_INTERVAL), per_call))
    if score.method == "rubric":
        n_windows = per_interval(score.examples_per_interval) + 2 * N_DECOYS
        n_groups = 2 * n_scored + min(n_scored, score.n_controls) + n_controls  # matched, baseline; shuffled; controls
        n_groups = study.judge.votes * n_groups + min(n_scored, N_REPEATED_FEATURES)
        loads += [_windows(RUBRIC, n_groups, n_windows, per_call), Load(RUBRIC, n_labels(), n_labels())]
    return loads


def _live_features(feature_stats: Path, size: int):
    """(live features, function: windows per unit when up to n are drawn from each interval); assumed full where unknown."""
    file = feature_stats / "feature_intervals.parquet"
    if not file.is_file():
        return size, lambda n: float(n * N_INTERVALS)
    counts = pl.read_parquet(file).filter(pl.col("split") == "held_out", pl.col("n") > 0)
    n_live = max(counts["feature"].n_unique(), 1)
    return n_live, lambda n: float(counts.select(pl.col("n").clip(0, n).sum()).item()) / n_live


def _windows(prompt: str, n_groups: int, n_windows: float, per_call: int) -> Load:
    return Load(prompt, n_groups * ceil(n_windows / per_call), round(n_groups * n_windows))


def _assumed_input(load: Load) -> float:
    reach = llm_explainer.REACH if load.prompt == llm_explainer.PROMPT else REACH
    explaining = load.prompt == llm_explainer.PROMPT
    per_example = (2 * reach + 1) * TOKENS_PER_CORPUS_TOKEN + MARKUP_PER_EXAMPLE + (0 if explaining else SCHEMA_PER_EXAMPLE)
    per_call = len(load_prompt(load.prompt).text) / BYTES_PER_TOKEN + SCHEMA
    return load.n_calls * per_call + load.n_examples * per_example


def show(plan: JudgePlan) -> str:
    """One line for the terminal."""
    dollars = f"about {plan.usd:.2f} dollars interactive, {plan.usd_batch:.2f} in batches (prices of {plan.prices_of})"
    cap = f"; cap {plan.budget_usd:g} dollars, {plan.spent_usd:.2f} spent so far" if plan.budget_usd else ""
    if plan.backend == "local":
        dollars = "0 dollars (a local server)"
    how = "measured on earlier calls" if plan.measured else "estimated from lengths"
    return (
        f"{plan.model} ({plan.backend}): {plan.n_calls:,} calls at most, {plan.n_tokens_input / 1e6:.2f} M tokens in and "
        f"{plan.n_tokens_output / 1e6:.2f} M out ({how}); {dollars}{cap}"
    )
