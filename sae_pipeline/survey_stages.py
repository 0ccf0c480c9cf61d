"""The stages of the survey (paper, second half): run by the job `survey` after the main run, taken into the analysis when fresh.

Every one but the two last writes `measurements.parquet` beside its own tables; `survey_verdicts` holds all of them to the
thresholds of `sae_pipeline/survey/checklist.yaml`.
"""

from sae_pipeline.stage import SURVEY, Stage

SURVEY_STAGES: tuple[Stage, ...] = (
    Stage("neighbourhoods", SURVEY, ("sae",), ("sae.sizes", "survey.neighbourhoods"), per_size=False),
)
