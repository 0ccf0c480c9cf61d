"""How many tokens the survey asks the model to write, from the study's settings; a study that asks for too many is refused."""

from collections.abc import Collection

from sae_pipeline.errors import UserError
from sae_pipeline.study import Study

LARGEST_PART = {
    "steering_comparison": ("steering_comparison", "n_concepts"), "case_clamps": ("case_studies", "new_tokens"),
}  # fmt: skip


def asked_tokens(study: Study) -> dict[str, int]:
    """{stage: tokens that it asks for at most}, every stage of the survey that generates. Texts may end earlier."""
    # Here, because these modules import torch: a plan of the main run does without.
    from sae_pipeline.survey.attribution.prompts import read_requests
    from sae_pipeline.survey.attribution.refusals import ANSWER_TOKENS
    from sae_pipeline.survey.cases.code_texts import sessions
    from sae_pipeline.survey.cases.prompts import load
    from sae_pipeline.survey.steering.methods import METHODS

    compared, cases = study.survey.steering_comparison, study.survey.case_studies
    n_report = compared.n_prompts // 2
    n_choose, n_concepts, n_methods = compared.n_prompts - n_report, compared.n_concepts, len(METHODS)
    choosing = n_choose * (1 + n_concepts * n_methods * len(compared.factors))
    reporting = n_report * compared.samples_per_prompt * (1 + n_concepts * (n_methods + 1))
    far = n_concepts * 2 * 2 * min(2, n_report)  # the clamp and the random direction, either sign, two prompts
    # Without a clamp, the feature, and at most so many random directions and random features.
    n_rewritten = sum(pair.half == "report" for pair in sessions()) * (2 + 2 * cases.n_rival_groups)
    return {
        "steering_comparison": (choosing + reporting + far) * compared.max_new_tokens,
        "case_clamps": (n_rewritten + len(load("secrecy")["words"])) * cases.new_tokens,
        "attribution": len(read_requests()[0]) * ANSWER_TOKENS,
    }


def check_generation(study: Study, to_build: Collection[str]) -> None:
    """Raises `UserError` when the stages `to_build` ask for more tokens than `survey.max_generated_tokens`."""
    cap = study.survey.max_generated_tokens
    asked = {stage: n for stage, n in asked_tokens(study).items() if stage in to_build}
    if sum(asked.values()) <= cap:
        return
    n_asked = f"{sum(asked.values()):,} generated tokens, {cap:,} are allowed"
    parts = [stage for stage in LARGEST_PART if stage in asked]
    if not parts:  # what is left has a fixed number of requests
        raise UserError("survey.max_generated_tokens", f"{', '.join(asked)} asks for {n_asked}", "Raise it.")
    section, key = LARGEST_PART[max(parts, key=lambda stage: asked[stage])]
    value = getattr(getattr(study.survey, section), key)
    raise UserError(
        f"survey.{section}.{key}",
        f"with {value} the survey asks for {n_asked}",
        "Lower it, or raise survey.max_generated_tokens.",
    )  # fmt: skip
