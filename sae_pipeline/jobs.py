"""The jobs: prepare once, then once per size, then compare; the survey when it is asked for."""

import dagster as dg

from sae_pipeline.stages import COMPARE, PER_SIZE, PREPARE, SURVEY, SURVEY_PER_SIZE, stages_of


def all_jobs():
    """`prepare` (data), `per_size` (SAE to steering, partitioned by inference), `compare` (analysis); the survey."""
    descriptions = {
        PREPARE: "Text to token blocks to activations: once per study.",
        PER_SIZE: "One SAE size: train, measure, describe, explain, score, steer.",
        COMPARE: "All sizes together: the analysis database, the comparison, the report.",
        SURVEY_PER_SIZE: "After the main run, for one size: the parts of the survey that are about a single SAE.",
        SURVEY: "After the main run: everything else of the survey and its verdicts. Run `compare` afterwards to see them.",
    }
    return [
        dg.define_asset_job(job, selection=dg.AssetSelection.assets(*stages_of(job)), description=text)
        for job, text in descriptions.items()
        if stages_of(job)
    ]
