"""A feature of gender clamped (paper, 'Bias'): the pronoun of an occupation against the dose, and the age beside it."""

import numpy as np

from sae_pipeline.survey.cases.clamp_case import FIGURE, Clamped, ClampWorld
from sae_pipeline.survey.cases.clamping import Dose, Effect, Prompt, first_tokens
from sae_pipeline.survey.cases.doses import RIVALS, best_affordable, compared, n_directions, neutral_cost
from sae_pipeline.survey.cases.prompts import digest, fill, half_of, load
from sae_pipeline.survey.cases.reading import with_bos
from sae_pipeline.survey.measurement import Measurement

CASE = "pronoun_shift"


def difference_of(effect: Effect) -> np.ndarray:
    """P(for) - P(against), A x P."""
    return np.exp(effect.says_AP) - np.exp(effect.against_AP)


def slopes(value_FP: np.ndarray, factors: list[float]) -> np.ndarray:
    """Least-squares slope of each prompt's value against the factor. P."""
    centred_F = np.array(factors) - np.mean(factors)
    return centred_F @ value_FP / (centred_F @ centred_F)


def run(found: ClampWorld) -> Clamped:
    """Slope of P(she) - P(he) per factor on half B; the feature of three that has the largest one on half A, of those whose
    strongest doses cost at most one nat per token of neutral text (the cheapest one where all cost more)."""
    told, made, world = load("pronouns"), Clamped(), found.world
    candidates = found.separating(told["female"], told["male"], "sentences of women and men")
    factors = sorted([0.0, *map(float, told["factors"])])
    pronoun, age = _prompts(found, "prompt", "she", "he"), _prompts(found, "age_prompt", "old", "young")
    half_A, half_B = ([prompt for prompt in pronoun if prompt.half == half] for half in ("choose", "report"))
    taken, costs = [], []
    for bank, units in candidates.items():
        doses = [Dose(unit, factor, bank) for unit in units for factor in (factors[0], factors[-1])]
        value_AP = difference_of(found.clamper.effect(half_A, doses, "pronouns: choosing"))
        rise_U = (value_AP[1::2] - value_AP[::2]).mean(axis=1)
        cost_U = neutral_cost(world, found.clamper, doses, "pronouns").reshape(-1, 2).max(axis=1)
        costs.append(cost_U)
        taken.append((bank, units[best_affordable(rise_U, cost_U)]))
    dearest = float(costs[0][candidates[0].index(taken[0][1])])
    first = 1 + n_directions(candidates)
    age_B = [prompt for prompt in age if prompt.half == "report"]
    for name, metric, prompts in (
        (CASE, "slope of P(she) - P(he) after an occupation, per training maximum of the clamp", half_B),
        (f"{CASE}_off_target_age", "the same of P(old) - P(young): what else the clamp moves", age_B),
    ):
        slope_RP = []
        for place, (bank, unit) in enumerate(taken):
            doses = [Dose(unit, factor, bank) for factor in factors]
            value_FP = difference_of(found.clamper.effect(prompts, [None, *doses], "pronouns: doses"))
            slope_RP.append(slopes(value_FP[1:], factors))
            for dose, value_P in zip(doses, value_FP[1:], strict=True):
                made.add_rows(CASE, name, prompts, place, dose, value_FP[0], value_P)
        main = Measurement(
            name, metric, n_scored=len(prompts), n_attempted=len(pronoun), size=world.size, control=RIVALS,
            why=f"feature {taken[0][1]}, factors {factors[0]:g} to {factors[-1]:g}; the dearest costs {dearest:.2f} nats/token",
            files_sha=digest("pronouns", "neutral"),
            rows="case_doses", figure=FIGURE, **compared(slope_RP[0], np.array(slope_RP[1:first]), world.seed),
        )  # fmt: skip
        made.add_compared(main, slope_RP[0], np.array(slope_RP[first:]), world.seed)
    return made


def _prompts(found: ClampWorld, template: str, says: str, against: str) -> list[Prompt]:
    told, lm = load("pronouns"), found.world.lm
    made = []
    for place, occupation in enumerate(told["occupations"]):
        text = fill(told[template], occupation=occupation)
        ids = with_bos(lm, lm.tokenize(text, bos=False))
        made.append(Prompt(text, half_of(place), ids, first_tokens(lm, told[says]), first_tokens(lm, told[against])))
    return made
