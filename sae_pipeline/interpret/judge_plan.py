"""What asking the judge would take: calls, tokens and dollars, before anything is sent.

Where a size's statistics exist, its questions are made and counted (`dry_run.py`); where they do not, they are assumed to be as
many and as long as the study allows. Bytes become tokens by what earlier calls took (the ledger knows), by asking the server to
count some questions when that is wanted, and else by the study's own tokenizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from sae_pipeline.interpret import llm_explainer, sensitivity
from sae_pipeline.interpret.build_specificity import N_DECOYS
from sae_pipeline.interpret.dry_run import questions_of, usage_by_prompt
from sae_pipeline.interpret.explanation_scores import N_DECOYS as N_DETECTION_DECOYS
from sae_pipeline.interpret.judge_calibration import n_labels
from sae_pipeline.interpret.judged_specificity import N_REPEATED_FEATURES
from sae_pipeline.interpret.judged_windows import N_MISPLACED, N_NEAREST, N_SAME_TOKEN
from sae_pipeline.interpret.llm_scorers import DETECTION, FUZZING, RUBRIC
from sae_pipeline.interpret.prompts import load_prompt
from sae_pipeline.interpret.windows import REACH
from sae_pipeline.judge.calls import read_calls
from sae_pipeline.judge.open import HOSTED, ledger_folder, price_for
from sae_pipeline.judge.prices import NANO_PER_USD
from sae_pipeline.judge.reply import Usage
from sae_pipeline.judge.request import OFFICIAL_API, Request, Settings
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Study
from sae_pipeline.tables.columns import N_INTERVALS

# Rough sizes, used only where a size's statistics do not exist yet.
BYTES_PER_CORPUS_TOKEN, MARKUP_PER_EXAMPLE, SCHEMA_PER_EXAMPLE, OVERHEAD_PER_CALL = 4.5, 40, 120, 500
OUTPUT = {RUBRIC: 30, DETECTION: 10, FUZZING: 10, sensitivity.PROMPT: 40, "explain": 120}  # tokens per example; per call: explain
MIN_SEEN = 20
CountTokens = Callable[[Sequence[Request], Settings], list[int]]
"""Asks a server how many tokens questions have."""
N_COUNTED = 6  # questions per prompt that a server is asked to count


@dataclass(frozen=True)
class Load:
    """Everything asked with one prompt. `n_tokens_input` by the study's tokenizer."""

    prompt: str
    n_calls: float
    n_bytes: float
    n_tokens_input: float
    n_tokens_output: float
    sample: tuple[Request, ...] = ()


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
    how: str
    """Where the numbers come from, in words."""


def plan_judge(
    store: ArtifactStore, sizes: Sequence[int], n_tokens: Callable[[str], int], count: CountTokens | None = None
) -> JudgePlan | None:
    """The plan for the stages of `sizes`, answers that the ledger may already hold not subtracted; None without a judge.

    `n_tokens` counts a text with the study's tokenizer. With `count` a server is asked about a few questions per prompt. Raises
    `UserError` for a model without a price.
    """
    study = store.study
    if study.judge.backend == "none":
        return None
    assert study.judge.model is not None
    price = price_for(study.judge)
    calls = read_calls(ledger_folder(store.root))
    settings = Settings(study.judge.model, HOSTED, study.judge.base_url or OFFICIAL_API, study.judge.effort)
    missing = [size for size in sizes if not (store.path("feature_stats", size) / "features.parquet").is_file()]
    loads = [load for size in missing for load in assumed_loads(study, size)]
    loads += [load for size in sizes if size not in missing for load in counted_loads(store, size, settings, n_tokens)]
    seen = usage_by_prompt(calls, study.judge.model, MIN_SEEN)
    n_input, n_output = 0.0, 0.0
    ways: set[str] = {"lengths assumed" for _ in missing}
    for load in loads:
        if load.prompt in seen:
            per_byte, out = seen[load.prompt]
            n_input, n_output = n_input + per_byte * load.n_bytes, n_output + out * load.n_calls
            ways.add("tokens per byte measured on earlier calls")
        elif count is not None and load.sample:
            counted = sum(count(load.sample, settings))
            share = len(load.sample) / load.n_calls
            n_input, n_output = n_input + counted / share, n_output + load.n_tokens_output
            ways.add("questions counted by the server, answers assumed")
        else:
            n_input, n_output = n_input + load.n_tokens_input, n_output + load.n_tokens_output
            ways.add("by the study's tokenizer, answers assumed")
    # Summed as if it were one call, so the surcharge for long prompts must not apply: no single call here is long.
    usage = Usage(round(n_input), round(n_output))
    flat = type(price)(price.input, price.output, price.cache_write, price.cache_read, batch_factor=price.batch_factor)
    return JudgePlan(
        study.judge.backend, study.judge.model, round(sum(load.n_calls for load in loads)), usage.input, usage.output,
        flat.cost_nano(usage) / NANO_PER_USD, flat.cost_nano(usage, batch=True) / NANO_PER_USD, price.as_of,
        float(calls["cost_usd"].sum()), study.judge.budget_usd, "; ".join(sorted(ways)),
    )  # fmt: skip


def counted_loads(store: ArtifactStore, size: int, settings: Settings, n_tokens: Callable[[str], int]) -> list[Load]:
    """The questions of a size whose statistics exist, made and counted."""
    judge, factors = questions_of(store, size, settings)
    loads: list[Load] = []
    for prompt, asked in judge.asked_for.items():
        # One text for all: a tokenizer is faster on it. The schema goes along with every question.
        texts = "\n".join(f"{request.system}\n{request.user}" for request, _ in asked)
        schemas = sum(n_tokens(str(each)) * n for each, n in _schemas(asked, settings).items())
        factor = factors.get(prompt, 1.0)
        sample = tuple(asked[i][0] for i in range(0, len(asked), max(1, len(asked) // N_COUNTED)))
        loads.append(Load(
            prompt, factor * len(asked), factor * judge.n_bytes(prompt), factor * (n_tokens(texts) + schemas),
            factor * n_tokens("\n".join(said for _, said in asked)), sample,
        ))  # fmt: skip
    return loads


def _schemas(asked: Sequence[tuple[Request, str]], settings: Settings) -> dict[str, int]:
    """{schema on the wire: how many questions carry it}."""
    counts: dict[type, int] = {}
    first: dict[type, Request] = {}
    for request, _ in asked:
        counts[request.answer] = counts.get(request.answer, 0) + 1
        first.setdefault(request.answer, request)
    return {str(first[answer].wire(settings)["output_config"]["format"]["schema"]): n for answer, n in counts.items()}


def assumed_loads(study: Study, size: int) -> list[Load]:
    """A size of which nothing exists: every feature alive, every interval full."""
    score, explain, per_call = study.score, study.explain, study.score.examples_per_call
    named = len(score.chosen) if isinstance(score.chosen, list) else 0
    n_scored = min(size, (len(score.features) if score.features else score.n_features) + named)
    n_chosen = score.chosen if isinstance(score.chosen, int) else named
    n_controls = score.n_controls * (1 + bool(study.random_model.n_tokens)) + min(score.n_controls, study.activations.n_neurons)
    loads: list[Load] = []
    if explain.method == "llm":
        n_explained = min(explain.n_judged or size, len(explain.features) if explain.features else size)
        units = 2 * (2 * n_scored + n_controls)  # two explainers; features matched and shuffled
        excerpts = llm_explainer.N_TOP + llm_explainer.N_PER_INTERVAL * N_INTERVALS + llm_explainer.N_INACTIVE
        prompt = llm_explainer.PROMPT_LOGITS if explain.logit_effects else llm_explainer.PROMPT
        loads.append(_assumed(prompt, n_explained + n_controls, excerpts, llm_explainer.REACH))
        loads.append(_windows(DETECTION, units, N_INTERVALS + 2 * N_DETECTION_DECOYS + N_NEAREST, per_call))
        loads.append(_windows(FUZZING, units, N_INTERVALS + N_MISPLACED + 2 * N_SAME_TOKEN, per_call))
        loads.append(_assumed(sensitivity.PROMPT, 2 * n_scored, 1, 0))
    if score.method == "rubric":
        own = score.examples_per_interval * N_INTERVALS + 2 * N_DECOYS
        groups = 2 * n_scored + min(n_scored, score.n_controls)  # matched, baseline; shuffled
        loads.append(_windows(RUBRIC, study.judge.votes * groups + min(n_scored, N_REPEATED_FEATURES), own, per_call))
        loads.append(_windows(RUBRIC, study.judge.votes * n_controls, N_INTERVALS + 2 * N_DECOYS, per_call))
        loads.append(_windows(RUBRIC, 2 * n_chosen * study.judge.votes, score.examples_per_chosen, per_call))
        loads.append(_assumed(RUBRIC, n_labels(), 1, REACH))
    return [load for load in loads if load.n_calls]


def _windows(prompt: str, n_groups: int, n_windows: int, per_call: int) -> Load:
    n_calls = n_groups * ceil(n_windows / per_call)
    return _assumed(prompt, n_calls, n_groups * n_windows / max(n_calls, 1), REACH)


def _assumed(prompt: str, n_calls: int, n_examples: float, reach: int) -> Load:
    per_example = (2 * reach + 1) * BYTES_PER_CORPUS_TOKEN + MARKUP_PER_EXAMPLE
    explains = prompt.startswith("explain-")
    n_bytes = len(load_prompt(prompt).text) + OVERHEAD_PER_CALL + n_examples * per_example
    n_bytes += 0 if explains else n_examples * SCHEMA_PER_EXAMPLE
    output = OUTPUT["explain"] if explains else OUTPUT[prompt] * n_examples
    return Load(prompt, n_calls, n_calls * n_bytes, n_calls * n_bytes / 4, n_calls * output)


def show(plan: JudgePlan) -> str:
    """One line for the terminal."""
    dollars = f"about {plan.usd:.2f} dollars interactive, {plan.usd_batch:.2f} in batches (prices of {plan.prices_of})"
    cap = f"; cap {plan.budget_usd:g} dollars, {plan.spent_usd:.2f} spent so far" if plan.budget_usd else ""
    if plan.backend == "local":
        dollars = "0 dollars (a local server)"
    return (
        f"{plan.model} ({plan.backend}): {plan.n_calls:,} calls, {plan.n_tokens_input / 1e6:.3f} M tokens in and "
        f"{plan.n_tokens_output / 1e6:.3f} M out ({plan.how}); {dollars}{cap}"
    )
