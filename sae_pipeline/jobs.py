"""The jobs: prepare once, then once per size, then compare; the survey when it is asked for."""

import dagster as dg

from sae_pipeline.stages import COMPARE, PER_SIZE, PREPARE, STAGES, SURVEY, stages_of


def groups_of(job: str) -> list[str]:
    """The asset groups of a job."""
    return list(dict.fromkeys(STAGES[stage].group for stage in stages_of(job)))


def all_jobs():
    """`prepare` (data), `per_size` (SAE to steering, partitioned by inference), `compare` (analysis), `survey`."""
    descriptions = {
        PREPARE: "Text to token blocks to activations: once per study.",
        PER_SIZE: "One SAE size: train, measure, describe, explain, score, steer.",
        COMPARE: "All sizes together: the analysis database, the comparison, the report.",
        SURVEY: "After the main run: neighbourhoods and the map of features. Run `compare` afterwards to see them.",
    }
    return [
        dg.define_asset_job(job, selection=dg.AssetSelection.groups(*groups_of(job)), description=text)
        for job, text in descriptions.items()
    ]
