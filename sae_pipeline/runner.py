"""Materialize what is not fresh: job by job, size by size, as Dagster runs on the study's persistent instance.

Each round materializes what the digests call not fresh and looks again, so that a stage below a rebuilt one runs only when the
bytes it reads have really changed (early cut-off). A size that fails does not stop the others.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from assets.publishing import USER_ERROR
from sae_pipeline import progress
from sae_pipeline.errors import UserError
from sae_pipeline.orphans import close_orphans
from sae_pipeline.stages import COMPARE, PER_SIZE, PREPARE, STAGES, SURVEY, SURVEY_PER_SIZE, stages_of
from sae_pipeline.store import ArtifactStore

# Framework chatter is DEBUG, failures are printed by us: the terminal belongs to the progress lines.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Wanted:
    """What the user asked for: some sizes (default all), one stage (default all), and whether fresh ones are rebuilt too.

    `one_pass`: train all sizes that are not fresh from one pass over the activations, also over stored ones.
    `survey`: the survey and the analysis that shows it, instead of everything else.
    """

    sizes: tuple[int, ...] | None = None
    only: str | None = None
    force: bool = False
    survey: bool = False
    one_pass: bool = False


@dataclass
class Report:
    """What happened: every executed (stage, size), failures by label, and what was left out with the reason."""

    executed: list[tuple[str, int | None]] = field(default_factory=list)
    user_errors: list[UserError] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return bool(self.user_errors or self.bugs)


def steps_of(store: ArtifactStore, wanted: Wanted) -> list[tuple[str, int | None, list[str]]]:
    """(job, size, stages) in the order of execution."""
    sizes = wanted.sizes or tuple(store.study.sae.sizes)
    main: list[tuple[str, int | None]] = [(PREPARE, None), *((PER_SIZE, size) for size in sizes), (COMPARE, None)]
    survey: list[tuple[str, int | None]] = [*((SURVEY_PER_SIZE, size) for size in sizes), (SURVEY, None), (COMPARE, None)]
    if wanted.only:
        steps = survey if STAGES[wanted.only].in_survey else main
        return [(job, size, [wanted.only]) for job, size in steps if job == STAGES[wanted.only].job]
    return [(job, size, stages_of(job)) for job, size in (survey if wanted.survey else main)]


def pending(store: ArtifactStore, stages: list[str], size: int | None, report: Report) -> list[str]:
    """Those of `stages` that digests do not call fresh now. One that this run left incomplete waits for the next run."""
    found: list[str] = []
    for stage in stages:
        now = store.freshness(stage, size)
        if now.state != "fresh" and not (now.incomplete and (stage, size) in report.executed):
            found.append(stage)
    return found


def ready(stages: list[str], todo: list[str]) -> list[str]:
    """Those of `todo` to build now: not what lies below a fresh stage that may itself change in this round.

    `stages` are all stages of the step, upstream first.
    """
    uncertain: set[str] = set()  # fresh now, but something above is about to be rebuilt
    for stage in stages:
        above = set(STAGES[stage].upstream)
        if above & uncertain or (stage not in todo and above & set(todo)):
            uncertain.add(stage)
    return [stage for stage in todo if stage not in uncertain]


def run_pipeline(defs: dg.Definitions, store: ArtifactStore, instance: dg.DagsterInstance, wanted: Wanted) -> Report:
    """Execute what is wanted and not fresh; never raises for a failing stage, the report says so."""
    close_orphans(instance)
    report = Report()
    for job, size, stages in steps_of(store, wanted):
        if job == COMPARE and not wanted.only and (reason := _cannot_compare(store, report)):
            report.left_out.append(reason)
            continue
        todo = list(stages) if wanted.force else ready(stages, pending(store, stages, size, report))
        together = _trained_together(store, size, wanted, todo, report)
        while todo and _execute(defs, instance, job, size, todo, wanted.force, report, together):
            todo = [] if wanted.force else ready(stages, pending(store, stages, size, report))
        if report.interrupted:
            break
        if job == PREPARE and report.failed:
            report.left_out.append("everything else: it needs corpus and activations")
            break
    return report


def _trained_together(store: ArtifactStore, size: int | None, wanted: Wanted, todo: list[str], report: Report) -> list[int]:
    """Other sizes that the SAE of this one should be trained with: with streamed activations every pass is a harvest."""
    if "sae" not in todo or wanted.force or not (wanted.one_pass or store.study.activations.source == "streaming"):
        return []
    sizes = wanted.sizes or tuple(store.study.sae.sizes)
    return [other for other in sizes if other != size and pending(store, ["sae"], other, report)]


def _cannot_compare(store: ArtifactStore, report: Report) -> str | None:
    missing = [size for size in store.study.sae.sizes if pending(store, stages_of(PER_SIZE), size, report)]
    if not missing:
        return None
    why = "failed" if report.failed else "not built yet"
    return f"the comparison of all sizes: {', '.join(map(str, missing))} {why}"


def _execute(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    size: int | None,
    stages: list[str],
    force: bool,
    report: Report,
    together: list[int],
) -> bool:
    label = job if size is None else f"{job} {size}"
    progress.say(f"{label}: {', '.join(stages)}")
    clock = time.monotonic()
    ops: dict[str, Any] = {stage: {"config": {"force": True}} for stage in stages} if force else {}
    if together:
        ops["sae"] = {"config": {"train_with": together}}
    config = QUIET | ({"ops": ops} if ops else {})
    try:
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance, partition_key=None if size is None else str(size), run_config=config,
            asset_selection=[dg.AssetKey(stage) for stage in stages], raise_on_error=False,
        )  # fmt: skip
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        report.interrupted = True
        return False
    report.executed += [
        (event.asset_key.path[-1], size) for event in result.get_asset_materialization_events() if event.asset_key
    ]
    for event in result.filter_events(lambda event: event.is_step_failure):
        _note_failure(event, label, result.run_id, report)
    word = "done" if result.success else "stopped" if report.interrupted else "FAILED"
    progress.say(f"{label}: {word} in {time.monotonic() - clock:.0f} s (run {result.run_id[:8]})")
    return result.success


def _note_failure(event: dg.DagsterEvent, label: str, run_id: str, report: Report) -> None:
    data = event.step_failure_data
    failure = data.user_failure_data
    if failure is not None and USER_ERROR in failure.metadata:
        report.user_errors.append(UserError(**failure.metadata[USER_ERROR].value))  # pyright: ignore[reportArgumentType, reportCallIssue]
        return
    error = data.error
    chain = []
    while error is not None:
        chain.append(error)
        error = error.cause
    if any(each.cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError") for each in chain):
        report.interrupted = True
        return
    text = chain[-1].to_string() if chain else "no details"
    report.bugs.append(f"{label}, step {event.step_key} (run {run_id}): {text}")
