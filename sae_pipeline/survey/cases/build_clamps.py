"""The stage `case_clamps`: what clamping a case's feature does, read off next-token probabilities."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sae_pipeline.store import Outcome
from sae_pipeline.survey.cases import answers, code_clamps, pronouns, unsafe_code, yes_bias
from sae_pipeline.survey.cases.build import rival_banks
from sae_pipeline.survey.cases.case import World
from sae_pipeline.survey.cases.clamp_case import FIGURE, ClampCase, ClampWorld, maxima
from sae_pipeline.survey.cases.clamping import Clamper
from sae_pipeline.survey.cases.parts import build_parts

CLAMPS: dict[str, ClampCase] = {
    "code_error": code_clamps.run,
    "pronouns": pronouns.run,
    "praise": answers.praise,
    "persona": answers.persona,
    "secrecy": answers.secrecy,
    "unsafe_code": unsafe_code.run,
    "yes_bias": yes_bias.run,
}


def build_case_clamps(world: World, work: Path, cases: Mapping[str, ClampCase] = CLAMPS) -> Outcome:
    """Write `measurements`, `case_doses` and `case_generations` into `work`, and the figure."""
    banks = [world.banks.features, *rival_banks(world)]
    found = ClampWorld(world, Clamper(world.lm, banks, maxima(world.feature_stats, world.size)))
    return build_parts("case_clamps", FIGURE, {name: partial(case, found) for name, case in cases.items()}, work)
