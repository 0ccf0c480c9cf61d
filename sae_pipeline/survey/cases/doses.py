"""Choose a feature and a factor on half A, report what the clamp does on half B, beside random directions and random features.

Shapes: P prompts, A arms, N resamples, R rivals: one of each bank of random directions, or of each group of random features.
Each bank goes through the same steps as the SAE: the search that proposes candidates (`ClampWorld.searched`), the same factors,
the same limit on what the clamp may cost. Random features are drawn in place of candidates; what follows is the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_pipeline.steering.fluency import MAX_EXTRA_NATS
from sae_pipeline.survey.cases.case import World
from sae_pipeline.survey.cases.clamping import Clamper, Dose, Effect, Prompt
from sae_pipeline.survey.cases.prompts import load
from sae_pipeline.survey.cases.reading import with_bos
from sae_pipeline.survey.cases.selection import beside_one_rival

RIVALS = "as many random directions, as dense and as strong, through the same search and choice of unit and factor"
RANDOM_FEATURES = "random features, as dense, in place of the candidates, through the same choice of unit and factor"

N_RESAMPLES = 2000
Score = Callable[[Effect], np.ndarray]
"""Effect of some arms and prompts -> one number per arm and prompt, A x P."""


@dataclass(frozen=True)
class Chosen:
    """The dose of the features and those of all rivals: random directions, random features; the scores of all on half B."""

    dose: Dose
    rivals: list[Dose]
    random: list[Dose]
    extra_nats: float
    before_P: np.ndarray
    after_P: np.ndarray
    rivals_RP: np.ndarray
    random_RP: np.ndarray

    @property
    def change_P(self) -> np.ndarray:
        """What the clamp changed, by prompt."""
        return self.after_P - self.before_P

    @property
    def rival_change_RP(self) -> np.ndarray:
        """The same of every random direction."""
        return self.rivals_RP - self.before_P

    @property
    def random_change_RP(self) -> np.ndarray:
        """The same of every random feature."""
        return self.random_RP - self.before_P


def choose_dose(
    world: World, clamper: Clamper, prompts: Sequence[Prompt], candidates: Mapping[int, Sequence[int]], factors: Sequence[float],
    score: Score, what: str,
) -> Chosen:  # fmt: skip
    """Of every bank the (unit, factor) of largest mean score on half A that costs at most one nat per token of neutral text.

    `candidates`: units of each bank, by its number: the SAE, then random directions, then random features. When every dose costs
    more, the cheapest one is taken: it is then measured, and its cost reported.
    """
    doses = all_doses(candidates, factors)
    half_A, half_B = ([prompt for prompt in prompts if prompt.half == half] for half in ("choose", "report"))
    score_AP = score(clamper.effect(half_A, doses, f"{what}: choosing"))
    taken, extra = best_doses(doses, score_AP.mean(axis=1), lambda asked: neutral_cost(world, clamper, asked, what))
    score_BP = score(clamper.effect(half_B, [None, *taken], f"{what}: reporting"))
    first = 1 + n_directions(candidates)
    return Chosen(
        taken[0], taken[1:first], taken[first:], extra[0], score_BP[0], score_BP[1], score_BP[2 : 1 + first],
        score_BP[1 + first :],
    )  # fmt: skip


def neutral_cost(world: World, clamper: Clamper, doses: Sequence[Dose], what: str) -> np.ndarray:
    """What each dose adds to the cross-entropy of the neutral texts, nats per token. A."""
    neutral = [with_bos(world.lm, world.lm.tokenize(text, bos=False)) for text in load("neutral")["texts"]]
    nats_AT = clamper.nats(neutral, [None, *doses], f"{what}: neutral texts")
    return (nats_AT[1:] - nats_AT[:1]).mean(axis=1)


def n_directions(banks: Iterable[int]) -> int:
    """How many of the banks are random directions."""
    return sum(bank > 0 for bank in banks)


def all_doses(candidates: Mapping[int, Sequence[int]], factors: Sequence[float]) -> list[Dose]:
    """Every candidate of every bank at every factor."""
    return [Dose(unit, float(factor), bank) for bank, units in candidates.items() for unit in units for factor in sorted(factors)]


def best_doses(
    doses: Sequence[Dose], score_A: np.ndarray, cost: Callable[[Sequence[Dose]], np.ndarray]
) -> tuple[list[Dose], list[float]]:
    """Of every bank the dose of largest score that is affordable, the cheapest one when none is; and what they cost.

    Banks come in the order of their first doses. `cost` says what some doses cost, nats per token. It is dear, so only the best
    of every bank are asked first, and the next best of those banks whose best cost too much.
    """
    left: dict[int, list[int]] = {}
    for place in np.argsort(-score_A, kind="stable").tolist():
        left.setdefault(doses[place].bank, []).append(place)
    asked: dict[int, list[int]] = {bank: [] for bank in dict.fromkeys(dose.bank for dose in doses)}
    extra_A = np.full(len(doses), np.inf)

    def open_banks() -> list[int]:
        return [bank for bank, places in asked.items() if left[bank] and not (extra_A[places] <= MAX_EXTRA_NATS).any()]

    while banks := open_banks():
        now = [left[bank].pop(0) for bank in banks]
        extra_A[now] = cost([doses[place] for place in now])
        for bank, place in zip(banks, now, strict=True):
            asked[bank].append(place)
    taken = [places[best_affordable(score_A[places], extra_A[places])] for places in asked.values()]
    return [doses[place] for place in taken], extra_A[taken].tolist()


def best_affordable(score_A: np.ndarray, extra_A: np.ndarray) -> int:
    """The place of the largest score among those that cost at most `MAX_EXTRA_NATS`; the cheapest one when none does."""
    affordable = extra_A <= MAX_EXTRA_NATS
    return int(np.where(affordable, score_A, -np.inf).argmax()) if affordable.any() else int(extra_A.argmin())


def compared(own_P: np.ndarray, rivals_RP: np.ndarray, seed: int, groups: Sequence[str | None] | None = None) -> dict[str, Any]:
    """Value, interval, control (mean of the rivals) and the interval of the difference to one rival (`beside_one_rival`).

    `groups`: that of each prompt; one is drawn with all its prompts. None: each prompt is one.
    """
    names = [group or f"prompt {place}" for place, group in enumerate(groups or [None] * len(own_P))]
    _, of_P = np.unique(names, return_inverse=True)
    n_G = np.bincount(of_P)
    own_G, rivals_RG = np.bincount(of_P, own_P), np.array([np.bincount(of_P, rival_P) for rival_P in rivals_RP])
    random = np.random.default_rng(seed)
    drawn_G = random.integers(0, len(n_G), (N_RESAMPLES, len(n_G)))
    own_N, rival_RN = (each_G[..., drawn_G].sum(axis=-1) / n_G[drawn_G].sum(axis=1) for each_G in (own_G, rivals_RG))
    value, control, (low, high) = float(own_P.mean()), float(rivals_RP.mean()), np.percentile(own_N, [2.5, 97.5])
    beside = beside_one_rival(
        value, control, len(rivals_RP), own_N, lambda drawn_N: rival_RN[drawn_N, np.arange(N_RESAMPLES)], random
    )
    return {"value": value, "low": float(low), "high": float(high)} | beside
