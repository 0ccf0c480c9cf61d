"""`sae-pipeline run` and `plan`: freshness first, then pre-flight, then Dagster, then the summary."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console

from sae_pipeline import progress
from sae_pipeline.errors import UserError
from sae_pipeline.stages import COMPARE, STAGES, SURVEY, SURVEY_PER_SIZE, sizes_of, stages_of
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import Study, load_study, parse_study

SECTION_WITH_FEATURES = {"explanations": "explain", "specificity_scores": "score", "steering_evals": "steer"}
OK, BUG, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
WIDTH_OF_FILES = 120


@dataclass(frozen=True)
class RunOptions:
    """The command line of `run`."""

    study_file: Path
    sizes: tuple[int, ...] = ()
    only: str | None = None
    force: bool = False
    features: str | None = None
    device: str = "auto"
    max_minutes: float | None = None
    job: str | None = None
    one_pass: bool = False
    count_tokens: bool = False


def run_command(options: RunOptions) -> int:
    """Returns the exit code. Raises `UserError` for what is wrong before anything starts."""
    clock = time.monotonic()
    study = load_study(options.study_file)
    _check_options(options, study)
    wanted_study = with_features(study, options.only, options.features)
    # A study changed on the command line differs from its file on purpose.
    guarded_file = options.study_file if wanted_study == study else None
    store = ArtifactStore(wanted_study, study_file=guarded_file)
    with terminal() as stream:
        console = plain_console(stream)
        todo = _wanted_and_not_fresh(store, options)
        if not todo and not options.force:
            console.print(f"Nothing to recompute: all {_n_artefacts(store, options)} artefacts are fresh by their digests.")
            _finish(store, console, clock)
            return OK
        _preflight(store, options, console)
        report = _materialize(store, options, guarded_file)
        for line in report.left_out:
            console.print(f"left out: {line}")
        if report.interrupted:
            console.print("stopped; what was finished is kept, and the next run goes on from there")
            return INTERRUPTED
        for bug in report.bugs:
            print(f"error: {bug}", file=sys.stderr)
        for error in report.user_errors:
            print(f"error: {error}", file=sys.stderr)
        _finish(store, console, clock)
        return BUG if report.bugs else USER_ERROR if report.user_errors else OK


def plan_command(study_file: Path, count_tokens: bool) -> None:
    """Print the plan of a full run. Raises `UserError` for what would stop it."""
    store = ArtifactStore(load_study(study_file), study_file=study_file)
    _preflight(store, RunOptions(study_file, count_tokens=count_tokens), plain_console(sys.stdout))


def with_features(study: Study, only: str | None, features: str | None) -> Study:
    """The study with `features` (`"5,9"`) in the section of stage `only`. Raises `UserError` when the two do not go together."""
    if features is None:
        return study
    section = SECTION_WITH_FEATURES.get(only or "")
    if section is None:
        raise UserError("--features", f"goes with --only {', '.join(SECTION_WITH_FEATURES)}", "Add --only STAGE.")
    try:
        chosen = [int(part) for part in features.split(",")]
    except ValueError as error:
        raise UserError("--features", f"{features!r} is not a list of numbers", "Write it as 5,9,12.") from error
    raw = study.model_dump(mode="json")
    raw[section]["features"] = chosen
    return parse_study(raw, where="--features")


@contextmanager
def terminal() -> Iterator[TextIO]:
    """A copy of standard output that stays the terminal while Dagster captures descriptors 1 and 2, with progress sent to it."""
    sys.stdout.flush()
    try:
        stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    except OSError:  # standard output has no descriptor (a notebook, a test's capture)
        with progress.watch(sys.stdout):
            yield sys.stdout
        return
    with stream, progress.watch(stream):
        yield stream


def plain_console(stream: TextIO) -> Console:
    """The terminal's width; in a file wide enough for every table."""
    return Console(file=stream, highlight=False, width=None if stream.isatty() else WIDTH_OF_FILES)


def _check_options(options: RunOptions, study: Study) -> None:
    if unknown := sorted(set(options.sizes) - set(study.sae.sizes)):
        raise UserError("--size", f"{unknown[0]} is not in sae.sizes {study.sae.sizes}", "Give one of these.")
    if options.only and options.only not in STAGES:
        raise UserError("--only", f"no stage {options.only!r}", f"Stages: {', '.join(STAGES)}.")
    if options.job not in (None, SURVEY):
        raise UserError("--job", f"no job {options.job!r} to ask for", f"Leave it out, or give {SURVEY}.")
    if options.job and (options.only or options.sizes):
        raise UserError("--job", "goes with neither --only nor --size", "The survey is about all sizes; leave these out.")


def _sizes(store: ArtifactStore, stage: str, options: RunOptions) -> list[int | None]:
    return [size for size in sizes_of(store.study, stage) if size is None or not options.sizes or size in options.sizes]


def _artefacts(store: ArtifactStore, options: RunOptions) -> list[tuple[str, int | None]]:
    if options.only:
        stages = [options.only]
    elif options.job == SURVEY:
        stages = [*stages_of(SURVEY_PER_SIZE), *stages_of(SURVEY), *stages_of(COMPARE)]
    else:
        stages = [stage for stage in STAGES if not STAGES[stage].in_survey]
    return [(stage, size) for stage in stages for size in _sizes(store, stage, options)]


def _n_artefacts(store: ArtifactStore, options: RunOptions) -> int:
    return len(_artefacts(store, options))


def _wanted_and_not_fresh(store: ArtifactStore, options: RunOptions) -> list[tuple[str, int | None]]:
    return [(stage, size) for stage, size in _artefacts(store, options) if store.freshness(stage, size).state != "fresh"]


def _preflight(store: ArtifactStore, options: RunOptions, console: Console) -> None:
    from sae_pipeline.plan import make_plan, show_plan
    from sae_pipeline.preflight import check_plan

    plan = make_plan(store, _artefacts(store, options), options.force, options.count_tokens)
    show_plan(plan, console)
    _show_device(store, options, console)
    check_plan(store, plan, options.device, options.max_minutes)


def _show_device(store: ArtifactStore, options: RunOptions, console: Console) -> None:
    """What computes and in which number format, with the reasons."""
    import torch

    from sae_pipeline.device import choose_device
    from sae_pipeline.language_model.precision import choose_dtype

    device = choose_device(options.device)
    _, why = choose_dtype(torch.device(device.name), store.study.model.dtype)
    console.print(f"  device  {device.name} ({device.reason}), up to {device.memory_bytes / 1e9:.1f} GB of memory; {why}")


def _materialize(store: ArtifactStore, options: RunOptions, guarded_file: Path | None):
    # Imported here: a run that has nothing to do never pays for Dagster.
    from dagster import DagsterInstance

    from resources.compute import Compute
    from sae_pipeline.dagster_home import use_dagster_home
    from sae_pipeline.definitions import build_defs
    from sae_pipeline.runner import Wanted, run_pipeline

    use_dagster_home(store.study.name, store.root.parent)
    compute = {"compute": Compute(device=options.device)}
    defs = build_defs(store.study, compute, root=store.root.parent, study_file=guarded_file)
    wanted = Wanted(options.sizes or None, options.only, options.force, survey=options.job == SURVEY, one_pass=options.one_pass)
    with DagsterInstance.get() as instance:
        return run_pipeline(defs, store, instance, wanted)


def _finish(store: ArtifactStore, console: Console, clock: float) -> None:
    from sae_pipeline.summary import show_summary

    show_summary(store, console)
    console.print(f"{time.monotonic() - clock:.1f} s")
