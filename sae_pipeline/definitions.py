"""The Dagster code location: assets, jobs, schedule, sensors and resources of one study.

`SAE_PIPELINE_STUDY` names the study file; it is read here and nowhere else. Tests and the command line call `build_defs`
with a study and with resources of their own.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from assets import STAGE_ASSETS
from assets.publishing import StageAsset
from resources.analysis_db import AnalysisDb
from resources.compute import Compute
from resources.judge import Judge
from resources.language_model import LanguageModel
from resources.store import Store
from sae_pipeline import automation, jobs, orphans
from sae_pipeline.partitions import sae_sizes
from sae_pipeline.study import Study, load_study

DEFAULT_STUDY = "studies/demo.yaml"


def build_defs(
    study: Study,
    overrides: Mapping[str, Any] | None = None,
    *,
    root: Path | str = "data",
    study_file: Path | str | None = None,
    stage_assets: Sequence[StageAsset] = STAGE_ASSETS,
) -> dg.Definitions:
    """The graph of a study. `overrides` replaces resources by name; `root` holds one folder per study.

    With `study_file` a build is refused when that file was edited after this call.
    """
    sizes = sae_sizes(study)
    resources: dict[str, Any] = {
        "store": Store.of(study, root, study_file),
        "compute": Compute(),
        "language_model": LanguageModel(),
        "judge": Judge(backend=study.judge.backend),
        "analysis_db": AnalysisDb(path=str(Path(root) / study.name / "analysis.duckdb")),
    }
    return dg.Definitions(
        assets=[asset.definition(sizes) for asset in stage_assets],
        jobs=jobs.all_jobs(),
        schedules=[automation.weekly_refresh(sizes)],
        sensors=[
            automation.analysis_refresh(), orphans.orphaned_runs,
            *([automation.judge_batches(study, root)] if study.judge.backend == "anthropic-batch" else []),
        ],
        resources=resources | dict(overrides or {}),
        # One process: model and CUDA context survive from step to step.
        executor=dg.in_process_executor,
    )  # fmt: skip


@dg.definitions
def defs() -> dg.Definitions:
    """The study that `SAE_PIPELINE_STUDY` names (default: the embedded demo)."""
    file = os.environ.get("SAE_PIPELINE_STUDY", DEFAULT_STUDY)
    return build_defs(load_study(file), study_file=file)
