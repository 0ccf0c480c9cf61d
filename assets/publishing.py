"""How every asset is declared and published: one decorator and one function, so that an asset is only what is its own.

`stage_asset` reads group, upstream, code version and partitioning from `sae_pipeline.stages`. `publish` builds through the
artefact store (nothing fresh is built again), runs the blocking checks on the work folder *before* it is published (a build
that fails a check leaves the old artefact in place), and reports metadata, data version and check results.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from pydantic import Field

from assets.verdicts import Verdict
from sae_pipeline import progress
from sae_pipeline.browser.links import page_url
from sae_pipeline.errors import UserError
from sae_pipeline.stages import STAGES, Stage

if TYPE_CHECKING:
    from sae_pipeline.store import ArtifactStore, Manifest, Outcome

OWNERS = ["team:sae-pipeline"]
USER_ERROR = "user_error"  # metadata label by which the command line knows a mistake that the user can mend
Checks = Mapping[str, Callable[[Path], Verdict]]
Metadata = dict[str, Any]


class Rebuild(dg.Config):
    """Run configuration of every asset."""

    force: bool = Field(default=False, description="recompute even when digests say it is fresh")


@dataclass(frozen=True)
class StageAsset:
    """A declared asset; `definition` makes the Dagster object once the study's sizes are known."""

    function: Callable[..., Any]
    kinds: frozenset[str]
    checks: Mapping[str, str]
    pool: str | None
    takes_ranges: bool = False

    @property
    def stage(self) -> str:
        """The stage of the same name."""
        return self.function.__name__

    def definition(self, sizes: dg.PartitionsDefinition) -> dg.AssetsDefinition:
        """The Dagster asset, partitioned by `sizes` when its stage is per size."""
        stage = STAGES[self.stage]
        partitions = sizes if stage.per_size else None
        with warnings.catch_warnings():
            # Without partitions on the check, the asset page would show the last size's verdict for all of them.
            warnings.filterwarnings("ignore", message=".*partitions_def.*")
            specs = [
                dg.AssetCheckSpec(name, asset=self.stage, description=text, blocking=True, partitions_def=partitions)
                for name, text in self.checks.items()
            ]
        return dg.asset(
            name=self.stage, group_name=stage.group, deps=[*stage.upstream, *stage.optional], partitions_def=partitions,
            code_version=stage.code_version, kinds=set(self.kinds), owners=OWNERS, check_specs=specs, pool=self.pool,
            output_required=not self.takes_ranges,
            description=inspect.getdoc(self.function),
            automation_condition=_when(stage) if stage.group == "analysis" else None,
        )(self.function)  # fmt: skip


def _when(stage: Stage) -> dg.AutomationCondition:
    """Cheap ones refresh themselves once every size is there; what costs GPU hours is scheduled or clicked. What they can do
    without neither holds them up nor sets them off."""
    optional = dg.AssetSelection.assets(*stage.optional)
    return dg.AutomationCondition.eager().ignore(optional) if stage.optional else dg.AutomationCondition.eager()


def stage_asset(
    *, kinds: set[str], checks: Mapping[str, str], pool: str | None = None, takes_ranges: bool = False
) -> Callable[[Callable[..., Any]], StageAsset]:
    """Declare the asset of the stage that has the function's name. `checks`: name -> what it verifies.

    `takes_ranges`: one run may be about several sizes (`assets.several`).
    """
    return lambda function: StageAsset(function, frozenset(kinds), checks, pool, takes_ranges)


class ChecksFailed(Exception):
    """Raised inside a build to keep what it made from being published."""


def publish(
    context: dg.AssetExecutionContext,
    store: "ArtifactStore",
    stage: str,
    builder: "Callable[[Path], Outcome]",
    *,
    checks: Checks,
    force: bool,
    show: "Callable[[Path, Manifest], Metadata] | None" = None,
    headline: tuple[str, ...] = (),
    size: int | None = None,
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Build `stage` unless it is fresh, check it, and report. `show` adds metadata made from the published folder (pictures).

    `headline` names the numbers that the terminal prints. `size`: by default that of the run. Raises `dagster.Failure` for a
    failed check or a user error.
    """
    size = size_of(context, stage) if size is None else size
    label = stage if size is None else f"{stage}/{size}"
    verdicts: dict[str, Verdict] = {}

    def checked(work: Path) -> "Outcome":
        outcome = builder(work)
        verdicts.update(_run_checks(checks, work))
        if not all(verdict.passed for verdict in verdicts.values()):
            # Set aside for a look; the next build of this stage starts afresh and removes it.
            work.rename(work.with_name(work.name + ".rejected"))
            raise ChecksFailed
        return outcome

    try:
        built = store.build(stage, size, checked, force=force)
        if built.reused:
            verdicts.update(_run_checks(checks, built.path))
    except ChecksFailed:
        built = None
    except UserError as error:
        raise _failure(error) from error
    failed = [name for name, verdict in verdicts.items() if not verdict.passed]
    results = [
        dg.AssetCheckResult(check_name=name, passed=bool(verdict.passed), metadata=as_metadata(verdict.metadata))
        for name, verdict in verdicts.items()
    ]
    if built is None or failed:
        yield from results
        what = "; ".join(f"{name}: {verdicts[name].summary}" for name in failed)
        raise _failure(UserError(label, f"failed its check {what}", "The earlier artefact, if any, is untouched."))
    how = "reused: fresh by its digests" if built.reused else f"built in {built.manifest.seconds:.1f} s"
    context.log.info(f"{label} {how}")
    numbers = ", ".join(f"{key} {_short(built.manifest.metadata[key])}" for key in headline if key in built.manifest.metadata)
    progress.say(f"  {label:<26} {how}{'  ' + numbers if numbers else ''}")
    metadata = as_metadata(built.manifest.metadata) | {
        "path": dg.MetadataValue.path(str(built.path.resolve())),
        "reused": built.reused,
        "build_seconds": built.manifest.seconds,
        "n_bytes": sum((built.path / name).stat().st_size for name in built.manifest.files),
    }
    if page := page_url(store.study.name, stage, size):
        metadata["page"] = dg.MetadataValue.url(page)
    if show is not None:
        metadata |= show(built.path, built.manifest)
    version = dg.DataVersion(built.manifest.data_version)
    yield dg.MaterializeResult(metadata=metadata, data_version=version, check_results=results)


def size_of(context: dg.AssetExecutionContext, stage: str) -> int | None:
    """The SAE size that this step is about, None for a stage that is not per size."""
    return int(context.partition_key) if STAGES[stage].per_size else None


def as_metadata(values: Mapping[str, Any]) -> Metadata:
    """Manifest values as Dagster metadata: finite numbers plot against size, structures become JSON."""
    shown: Metadata = {}
    for key, value in values.items():
        value = value.item() if isinstance(value, np.generic) else value  # Dagster stores plain numbers only
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            shown[key] = str(value)
        elif isinstance(value, dict | list):
            shown[key] = dg.MetadataValue.json(value)
        else:
            shown[key] = value
    return shown


def _run_checks(checks: Checks, folder: Path) -> dict[str, Verdict]:
    return {name: check(folder) for name, check in checks.items()}


def _failure(error: UserError) -> dg.Failure:
    return dg.Failure(
        description=str(error), allow_retries=False,
        metadata={USER_ERROR: dg.MetadataValue.json({"where": error.where, "what": error.what, "mend": error.mend})},
    )  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
