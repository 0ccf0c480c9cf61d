"""What a run would do: time, disk and memory per stage, from the study and the model's configuration alone.

A stage that has been built before is expected to take as long as it took then. Everything else is counted in floating-point
operations and divided by a rate; the rates are measured on the demo study with two cores and scale with their number.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from sae_pipeline.activations.shard_bytes import expected_shard_bytes
from sae_pipeline.stages import STAGES, study_digest
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import PretrainedSae, Steer, Study

# Floating-point operations per second that this code reaches on one core of a server CPU with bfloat16 instructions.
MODEL_RATE_PER_CORE = 1.65e11
SAE_RATE_PER_CORE = 1.4e11
GENERATION_RATE_PER_CORE = 6.0e10  # key-value-cached steps are bound by memory, not arithmetic
FLOAT32_RATE_PER_CORE = 6.0e10  # short prompts in single precision
PROMPT_TOKENS = 12  # of a committed prompt
SAE_TOKEN_CORE_SECONDS = 2.5e-5  # of a training token, whatever the size: reading, sparse gradients, optimizer
LABEL_CORE_SECONDS = 6e-3  # of a sentence embedding
SAE_WEIGHT_STEP_SECONDS = 4e-9  # of an optimizer step, per weight
MAP_SECONDS_PER_FEATURE = 1.5e-3  # UMAP, one thread whatever the machine
GATHER_BYTES_PER_SECOND = 4e9  # of correlations: rows of neurons summed for every active pair
DENSE_PRODUCTS = 6  # matrix products of a step that is not sparse
N_INSTRUCTIONS, THIN_CHOOSE = 2, 4  # of the prompt-only control: templates, texts of each on the choosing half
READ_BYTES_PER_SECOND = 2e8  # of a pretrained SAE: read, checked, refolded in float64
CASE_TOKENS, CLAMP_TOKENS = 60_000, 300_000  # read by the case studies; continued from the hook under clamps
NO_JUDGE = "none: offline methods only, 0 dollars"


@dataclass(frozen=True)
class Shape:
    """What the plan needs to know about a model."""

    d_model: int
    d_mlp: int
    n_blocks: int
    vocab_size: int

    @property
    def block_parameters(self) -> int:
        """Parameters of one block (attention without grouping: an upper bound)."""
        return 4 * self.d_model**2 + 3 * self.d_model * self.d_mlp

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.n_blocks * self.block_parameters + self.vocab_size * self.d_model


@dataclass(frozen=True)
class Estimate:
    """One artefact that would be looked at; `seconds` is 0 for one that is fresh."""

    stage: str
    size: int | None
    state: str
    seconds: float
    n_bytes: int


@dataclass(frozen=True)
class Plan:
    """Everything that the pre-flight prints and checks."""

    study: Study
    shape: Shape
    rows: tuple[Estimate, ...]
    memory_bytes: int
    judge: str = NO_JUDGE
    """What the language-model judge would be asked, and for how much."""

    @property
    def seconds(self) -> float:
        """Expected time of the whole run."""
        return sum(row.seconds for row in self.rows)

    @property
    def n_bytes(self) -> int:
        """Disk that the run will fill."""
        return sum(row.n_bytes for row in self.rows)


def model_shape(study: Study) -> Shape:
    """Read the model's configuration (no weights). Raises `UserError` for a missing model and for a hook that does not fit it."""
    from sae_pipeline.language_model.origin import check_hook, n_blocks_of

    config = check_hook(study.model, study.hook, study.corpus.context)
    text: Any = config.get_text_config(decoder=True)
    d_model = text.hidden_size
    return Shape(d_model, getattr(text, "intermediate_size", None) or 4 * d_model, n_blocks_of(config), text.vocab_size)


def make_plan(
    store: ArtifactStore, artefacts: Sequence[tuple[str, int | None]], force: bool = False, count_tokens: bool = False
) -> Plan:
    """Estimate the artefacts that are not fresh, and what lies below them.

    `count_tokens`: ask the judge's server to count the tokens of some questions (free, but the texts go there).
    """
    study, shape = store.study, model_shape(store.study)
    rows: list[Estimate] = []
    rebuilt: set[str] = set()
    for stage, size in artefacts:
        state = "fresh" if not force and store.freshness(stage, size).state == "fresh" else "build"
        if state == "fresh" and rebuilt & set(STAGES[stage].upstream):
            state = "if changed"
        if state != "fresh":
            rebuilt.add(stage)
        manifest = store.manifest(stage, size)
        as_before = manifest is not None and manifest.study_digest == study_digest(study, stage, size)
        seconds = manifest.seconds if manifest and as_before else expected_seconds(study, shape, stage, size)
        rows.append(
            Estimate(
                stage,
                size,
                state,
                seconds if state == "build" else 0.0,
                expected_bytes(study, shape, stage, size) if state == "build" else 0,
            )
        )
    return Plan(study, shape, tuple(rows), expected_memory(study, shape), _judge(store, rows, count_tokens))


def _judge(store: ArtifactStore, rows: Sequence[Estimate], count_tokens: bool) -> str:
    sizes = {row.size for row in rows if row.stage in ("explanations", "specificity_scores") and row.state != "fresh"}
    if store.study.judge.backend == "none":
        return NO_JUDGE
    from sae_pipeline.interpret.judge_plan import plan_judge, show
    from sae_pipeline.language_model.tokens import load_tokenizer

    tokenizer = load_tokenizer(store.study.model)
    wanted = sorted(size for size in sizes if size is not None)
    judge = plan_judge(store, wanted, lambda text: len(tokenizer.tokenize(text, bos=False)), count_tokens)
    assert judge is not None
    return show(judge)


def expected_seconds(study: Study, shape: Shape, stage: str, size: int | None) -> float:
    """Expected time of one artefact on this machine's CPU cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    tokens = n_tokens(study)
    held_out = tokens * study.corpus.held_out
    to_hook = 2.0 * shape.block_parameters * (study.hook.after_block + 1)
    whole = 2.0 * shape.parameters
    encode = 2.0 * shape.d_model * (size or 0)
    splice = study.metrics.splice_tokens * (whole - to_hook)
    model_rate, sae_rate = MODEL_RATE_PER_CORE * cores, SAE_RATE_PER_CORE * cores
    match stage:
        case "corpus":
            return 10 + tokens / 1e5
        case "activations":
            return 5 + (tokens * to_hook + 3 * splice) / model_rate
        case "random_model":
            control = study.random_model
            trained = control.n_tokens * (1 - study.corpus.held_out) * control.epochs
            return 6 + control.n_tokens * to_hook / model_rate + trained * SAE_TOKEN_CORE_SECONDS / cores
        case "sae":
            if isinstance(study.sae, PretrainedSae):
                return 2 + 8 * shape.d_model * (size or 0) / READ_BYTES_PER_SECOND
            products = DENSE_PRODUCTS if study.sae.architecture in ("relu_l1", "gated", "jumprelu") else 1
            trained = tokens * (1 - study.corpus.held_out) * study.sae.epochs
            return 2 + trained * (SAE_TOKEN_CORE_SECONDS / cores + products * encode / sae_rate)
        case "sae_metrics":
            return 3 + 2 * splice / model_rate + held_out * 2 * encode / sae_rate
        case "feature_stats":
            return 5 + tokens * encode / sae_rate
        case "steering_evals":
            texts = n_texts(study.steer, study.n_steered(size or 0), size == max(study.sae.sizes))
            generated = texts * study.steer.max_new_tokens
            return 10 + generated * whole / (GENERATION_RATE_PER_CORE * cores)
        case "explanations" | "specificity_scores":
            return 10
        case "attribution":
            settings = study.survey.attribution
            shifted = settings.max_prompts * (settings.n_ablations + settings.n_strongest + 2 * settings.n_finite_differences)
            return 30 + shifted * PROMPT_TOKENS * (whole - to_hook) / (FLOAT32_RATE_PER_CORE * cores)
        case "steering_comparison":
            compared = study.survey.steering_comparison
            half, n, n_methods = compared.n_prompts // 2, compared.n_concepts, 9
            texts = half * n * (n_methods * len(compared.factors) + (n_methods + 2) * compared.samples_per_prompt)
            return 60 + texts * compared.max_new_tokens * whole / (GENERATION_RATE_PER_CORE * cores)
        case "concept_search":
            searched = 2.5 * study.survey.concept_search.n_sample_tokens + 14 * study.survey.concept_search.n_probe_train
            return 60 + 2 * searched * 2.0 * shape.d_model * max(study.sae.sizes) / sae_rate
        case "neighbourhoods":
            n_features = sum(study.sae.sizes)
            return 10 + n_features * (2.0 * shape.d_model * n_features / sae_rate + MAP_SECONDS_PER_FEATURE)
        case "invariants":
            # Blocks run again at the hook (stored examples) and through the whole model three times (clamps, float32).
            settings, context = study.survey.invariants, study.corpus.context
            blocks = len(study.sae.sizes) * context
            run = settings.n_examples * to_hook + 3 * 2 * settings.n_clamped * whole
            return 20 + blocks * run / model_rate
        case "feature_families":
            second = study.sae.sizes[min(1, len(study.sae.sizes) - 1)]
            epochs = 0 if isinstance(study.sae, PretrainedSae) else min(study.sae.epochs, study.survey.feature_families.epochs)
            per_token = SAE_TOKEN_CORE_SECONDS / cores + 2.0 * shape.d_model * second / sae_rate
            return 15 + tokens * (1 - study.corpus.held_out) * epochs * per_token
        case "neighbourhood_checks":
            return 10 + 5 * study.survey.neighbourhood_checks.n_anchors * len(study.sae.sizes) * LABEL_CORE_SECONDS / cores
        case "null_models":
            settings, smallest = study.survey.null_models, min(study.sae.sizes)
            trained = 2 * settings.n_seeds * settings.epochs * tokens * (1 - study.corpus.held_out)
            per_token = SAE_TOKEN_CORE_SECONDS / cores + 2.0 * shape.d_model * smallest / sae_rate
            return 40 + trained * per_token + settings.n_seeds * settings.synthetic_steps * 0.03 / cores
        case "scaling_laws":
            settings, n_rates = study.survey.scaling_laws, len(study.survey.scaling_laws.rates)
            runs = [(size, steps) for size in settings.sizes for steps in settings.steps]
            runs += [(settings.sizes[1], settings.steps[-2])] * n_rates * settings.n_rate_budgets
            runs += [(4 * settings.matched_size, settings.steps[-1])] * len(settings.lambdas)
            # Small batches: the optimizer's pass over all weights counts as much as the tokens.
            return 40 + sum(
                steps * (settings.batch * SAE_TOKEN_CORE_SECONDS / cores + 2 * shape.d_model * size * SAE_WEIGHT_STEP_SECONDS)
                for size, steps in runs
            )
        case "completeness":
            return 10 + 5e-5 * tokens * len(study.sae.sizes)
        case "features_vs_neurons":
            settings = study.survey.features_vs_neurons
            counted = min(settings.n_tokens, tokens)
            neurons = shape.d_mlp * (study.hook.after_block + 1)
            # Each active pair reads the neurons of its token once.
            active = (getattr(study.sae, "k", None) or 64) * min(1.0, settings.n_features / (size or 1)) + 1
            gathered = counted * active * neurons * 4 / (GATHER_BYTES_PER_SECOND * cores)
            return 30 + counted * to_hook / model_rate + gathered + counted * encode / sae_rate
        case "case_studies":
            read = CASE_TOKENS + 4 * study.survey.case_studies.syntax_tokens
            banks = 2 * 2.0 * shape.d_model * max(study.sae.sizes)  # the features and as many random directions
            return 30 + CASE_TOKENS * to_hook / model_rate + read * banks / sae_rate
        case "case_clamps":
            return 20 + CLAMP_TOKENS * (whole - to_hook) / model_rate
        case _:
            return 3


def n_texts(steer: Steer, n_features: int, is_largest: bool) -> int:
    """Texts that the steering evals of one size generate, at most: as if the shared controls needed every factor
    (`sae_pipeline.steering.plan` decides)."""
    half, n, shared = steer.n_prompts // 2, len(steer.features or ()) or n_features, 2
    n_factors = len(set(steer.factors))
    choices = len([factor for factor in set(steer.factors) if factor > 0]) or n_factors
    thin, added = min(steer.choose_samples, THIN_CHOOSE), 1 if is_largest else 0
    baseline = half * (2 + steer.samples_per_prompt)
    choosing = n * (N_INSTRUCTIONS * thin + choices * (steer.choose_samples + added * thin))
    choosing += choices * (2 * steer.choose_samples + added * thin)
    reporting = n * (half * (1 + steer.samples_per_prompt + added) + (n_factors - 1) * steer.dose_samples)
    return baseline + choosing + reporting + choices * half * (steer.samples_per_prompt + added + shared)


def expected_bytes(study: Study, shape: Shape, stage: str, size: int | None) -> int:
    """Expected size of one artefact on disk, generous."""
    tokens = n_tokens(study)
    match stage:
        case "corpus":
            return tokens * 16
        case "activations":
            # Two percent more: beginning-of-sequence tokens and headers.
            activations = study.activations
            if activations.source == "streaming":
                return 20 * tokens
            return int(1.02 * expected_shard_bytes(tokens, shape.d_model, activations.dtype, activations.n_neurons))
        case "random_model":
            shards = expected_shard_bytes(study.random_model.n_tokens, shape.d_model, study.activations.dtype, 0)
            return shards + 4 * 4 * 2 * shape.d_model * min(study.sae.sizes)
        case "sae":
            # Published weights, and the checkpoint while training: weights and two Adam moments.
            return 4 * 2 * shape.d_model * (size or 0) * 4
        case "feature_stats":
            n_active = 64 if isinstance(study.sae, PretrainedSae) else study.sae.k or 64
            return tokens * n_active * 18  # sorted runs until they are merged, the cache, examples
        case _:
            return 5_000_000


def expected_memory(study: Study, shape: Shape) -> int:
    """Most memory that any stage needs at once: the model, or the largest SAE with its gradients and moments."""
    if isinstance(study.sae, PretrainedSae):
        return max(shape.parameters * 4, 8 * 4 * 2 * shape.d_model * max(study.sae.sizes)) + 1_000_000_000
    training = 4 * 4 * 2 * shape.d_model * max(study.sae.sizes)
    batch = study.sae.batch * max(study.sae.sizes) * 4 * 2
    return max(shape.parameters * 4, training + batch) + 1_000_000_000


def n_tokens(study: Study) -> int:
    """The token budget of the corpus."""
    return sum(source.tokens for source in study.corpus.sources)


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan: what is studied, then one row per stage."""
    study = plan.study
    hook = f"{study.hook.site} after block {study.hook.after_block} of {plan.shape.n_blocks}, {plan.shape.d_model} dimensions"
    sources = ", ".join(f"{source.label} {source.tokens:,}" for source in study.corpus.sources)
    sae = study.sae
    console.print(f"[bold]Study {study.name}[/bold]")
    console.print(f"  model   {_model(study)} ({plan.shape.parameters / 1e6:,.0f} M parameters)")
    console.print(f"  hook    {hook}")
    console.print(f"  tokens  {n_tokens(study):,} ({sources}); {study.corpus.held_out:.0%} of the documents held out")
    if isinstance(sae, PretrainedSae):
        how = f"imported from {sae.path or sae.id} ({sae.format})"
    else:
        target = ", ".join(f"{name} {value}" for name, value in sae.sparsity_settings.items())
        how = f"{sae.architecture}, {target}, {sae.epochs:g} epochs"
    console.print(f"  SAEs    {how}; sizes {', '.join(f'{size:,}' for size in sae.sizes)}")
    table = Table(box=None, pad_edge=False)
    for title, justify in (("  stage", "left"), ("to build", "left"), ("expected s", "right"), ("disk MB", "right")):
        table.add_column(title, justify=justify)  # pyright: ignore[reportArgumentType]
    for stage in dict.fromkeys(row.stage for row in plan.rows):
        rows = [row for row in plan.rows if row.stage == stage]
        build = [row for row in rows if row.state == "build"]
        names = ", ".join(str(row.size) for row in build if row.size is not None) or ("yes" if build else rows[0].state)
        seconds, n_bytes = sum(row.seconds for row in rows), sum(row.n_bytes for row in rows)
        table.add_row(f"  {stage}", names, f"{seconds:.0f}" if build else "", f"{n_bytes / 1e6:,.0f}" if build else "")
    console.print(table)
    gigabytes = f"{plan.n_bytes / 1e9:.2f} GB of disk, {plan.memory_bytes / 1e9:.1f} GB of memory"
    console.print(f"  expected: {plan.seconds / 60:.1f} min, {gigabytes}")
    console.print(f"  judge: {plan.judge}")


def _model(study: Study) -> str:
    model = study.model
    match model.source:
        case "hub":
            return f"{model.id} (hub)"
        case "folder":
            return model.path
        case "package":
            return f"{model.file} (package {model.package})"
