"""What a stage is: its place in the graph, the study fields that change its result, the job that runs it."""

from dataclasses import dataclass

MODEL_IDENTITY = ("model.source", "model.id", "model.revision", "model.path", "model.package", "model.file")
# What of the judge can change an answer, or how many questions get one. How the questions travel cannot.
JUDGE = tuple(
    f"judge.{name}"
    for name in (
        "backend", "model", "base_url", "effort", "thinking", "plumbing", "votes", "budget_usd", "budget_usd_per_run", "prices",
    )
)  # fmt: skip

PREPARE, PER_SIZE, COMPARE = "prepare", "per_size", "compare"
SURVEY, SURVEY_PER_SIZE = "survey", "survey_per_size"


@dataclass(frozen=True)
class Stage:
    """One asset. `fields` are dotted study paths; a whole section is named by its key.

    `optional`: stages that it reads when they are fresh, and does without when they are not. `files`: committed files (prompts,
    concepts, thresholds) that change its result, as patterns below the package `sae_pipeline`.
    """

    name: str
    group: str
    upstream: tuple[str, ...]
    fields: tuple[str, ...]
    per_size: bool = True
    code_version: str = "1"
    optional: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def in_survey(self) -> bool:
        """Whether it waits for the job `survey`."""
        return self.group == SURVEY

    @property
    def job(self) -> str:
        """The job that contains it. `run` goes through all but the survey, which is asked for by name."""
        if self.in_survey:
            return SURVEY_PER_SIZE if self.per_size else SURVEY
        return PER_SIZE if self.per_size else {"analysis": COMPARE}.get(self.group, PREPARE)
