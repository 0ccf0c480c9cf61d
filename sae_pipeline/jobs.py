"""The three jobs that together are the whole graph: prepare once, then once per size, then compare."""

import dagster as dg

from sae_pipeline.stages import STAGES

PREPARE, PER_SIZE, COMPARE = "prepare", "per_size", "compare"


def job_of(stage: str) -> str:
    """The job that contains a stage."""
    if STAGES[stage].per_size:
        return PER_SIZE
    return COMPARE if STAGES[stage].group == "analysis" else PREPARE


def stages_of(job: str) -> list[str]:
    """The stages of a job, upstream first."""
    return [stage for stage in STAGES if job_of(stage) == job]


def groups_of(job: str) -> list[str]:
    """The asset groups of a job."""
    return list(dict.fromkeys(STAGES[stage].group for stage in stages_of(job)))


def all_jobs():
    """`prepare` (data), `per_size` (SAE to steering, partitioned by inference), `compare` (analysis)."""
    descriptions = {
        PREPARE: "Text to token blocks to activations: once per study.",
        PER_SIZE: "One SAE size: train, measure, describe, explain, score, steer.",
        COMPARE: "All sizes together: the analysis database, the comparison, the report.",
    }
    return [
        dg.define_asset_job(job, selection=dg.AssetSelection.groups(*groups_of(job)), description=text)
        for job, text in descriptions.items()
    ]
