"""What a run would do: time, disk and memory per stage, from the study and the model's configuration alone.

A stage that has been built before is expected to take as long as it took then. Everything else is counted in floating-point
operations and divided by a rate; the rates are measured on the demo study with two cores and scale with their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from sae_pipeline.activations.shard_bytes import expected_shard_bytes
from sae_pipeline.plan_seconds import expected_seconds
from sae_pipeline.plan_work import Shape, n_tokens
from sae_pipeline.stages import STAGES, study_digest
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import PretrainedSae, Study

NO_JUDGE = "none: offline methods only, 0 dollars"


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
