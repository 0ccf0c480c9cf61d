"""The model's self (paper, 'Features relating to the model's representation of self'): active on questions about itself and not
on questions of the same form about the weather.

Shapes: I questions, F units, P features that pass the filter, R draws of random features.
"""

import numpy as np

from sae_pipeline.survey.cases.case import DIRECTION, FIGURE, Found, World
from sae_pipeline.survey.cases.prompts import digest, half_of, load
from sae_pipeline.survey.cases.random_features import BESIDE_EACH, N_GROUPS, with_random_features
from sae_pipeline.survey.cases.reading import from_ids
from sae_pipeline.survey.cases.selection import beside_rivals
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds

CASE = "self_features"


def passing(fires_IF: np.ndarray, about_self_I: np.ndarray) -> np.ndarray:
    """The filter of half A, on its questions: fires on the model itself, never on the weather. Bool, F."""
    return (fires_IF[about_self_I].mean(axis=0) >= thresholds().on_self) & (
        fires_IF[~about_self_I].mean(axis=0) <= thresholds().on_other
    )


def surviving(fires_IF: np.ndarray, about_self_I: np.ndarray, choose_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(units that pass the filter on half A, those of them that pass on half B), bool F."""
    passed_F = passing(fires_IF[choose_I], about_self_I[choose_I])
    return passed_F, passed_F & holding(fires_IF[about_self_I & ~choose_I], fires_IF[~about_self_I & ~choose_I])


def holding(on_self_IF: np.ndarray, on_other_IF: np.ndarray) -> np.ndarray:
    """The filter of half B: units that still fire on the model itself, and hardly on the weather. Bool, F."""
    return (on_self_IF.mean(axis=0) >= thresholds().still_on_self) & (on_other_IF.mean(axis=0) <= thresholds().still_on_other)


def strength(mean_IF: np.ndarray, about_self_I: np.ndarray) -> np.ndarray:
    """Mean activation on the questions about the model: what ranks the units that pass. F."""
    return mean_IF[about_self_I].mean(axis=0)


def questions() -> tuple[list[str], np.ndarray, np.ndarray]:
    """(all questions, which are about the model, which are of half A)."""
    told = load("self")
    turns = [*told["self"], *told["other"]]
    choose_I = np.array([half_of(place) == "choose" for part in ("self", "other") for place in range(len(told[part]))])
    return turns, np.arange(len(turns)) < len(told["self"]), choose_I


def run(world: World) -> Found:
    """Number of features that survive the filter on both halves."""
    found, (turns, about_self_I, choose_I) = Found(), questions()
    reading = world.read([from_ids(world.lm.chat(turn)) for turn in turns], "questions to the model")
    fires = {name: bank.max_IF > 0 for name, bank in (("features", reading.features), ("null", reading.null))}
    passed = {name: surviving(each, about_self_I, choose_I) for name, each in fires.items()}
    kept = np.flatnonzero(passed["features"][1])
    # Of the filter's survivors those of half A that fire most; the clamps use the first ones.
    on_A = strength(reading.features.mean_IF[choose_I], about_self_I[choose_I])
    candidates = np.flatnonzero(passed["features"][0])
    for rank, unit in enumerate(candidates[np.argsort(-on_A[candidates], kind="stable")].tolist(), start=1):
        row = {"case_name": CASE, "part": "survives half A", "control": "none", "unit": unit, "rank": rank}
        found.chosen.append(row | {"score_choose": float(on_A[unit]), "score_report": float(unit in kept)})
    report_I = about_self_I & ~choose_I
    for unit in kept.tolist():
        found.add_items(
            CASE, f"feature {unit}", [turns[place] for place in np.flatnonzero(report_I)], ["report"] * int(report_I.sum()),
            [True] * int(report_I.sum()), reading.features.max_IF[report_I, unit], np.zeros(int(report_I.sum())),
        )  # fmt: skip
    random, counts = np.random.default_rng(world.seed), {"features": [], "null": []}
    strata = [np.flatnonzero((about_self_I == a) & ~choose_I) for a in (True, False)]
    for _ in range(300):
        drawn = [members[random.integers(0, len(members), len(members))] for members in strata]
        for name, each in fires.items():
            among = np.flatnonzero(passed[name][0])
            counts[name].append(int(holding(*(each[np.ix_(places, among)] for places in drawn)).sum()))
    low, high = np.percentile(counts["features"], [2.5, 97.5])
    apart = np.array(counts["features"]) - np.array(counts["null"])
    n_null = int(passed["null"][1].sum())
    beside = _beside(world, found, candidates, fires["features"][~choose_I], about_self_I[~choose_I], on_A)
    found.measurements += with_random_features(
        Measurement(
            "self_features", "features active on questions about the model and silent on questions about the weather",
            float(len(kept)), int(passed["features"][0].sum()), world.size, world.size, float(low), float(high),
            DIRECTION.replace("the best of as many", "as many").replace("chosen alike", "through the same filter"), float(n_null),
            float(len(kept) - n_null), float(np.percentile(apart, 2.5)), float(np.percentile(apart, 97.5)),
            why=f"{len(candidates)} pass on half A; scored on other questions of the same two kinds",
            files_sha=digest("self"), rows="case_features", figure=FIGURE,
        ), beside, BESIDE_EACH.format(n=N_GROUPS),
    )  # fmt: skip
    return found


def _beside(
    world: World, found: Found, candidates: np.ndarray, fires_IF: np.ndarray, about_self_I: np.ndarray, on_A: np.ndarray
) -> dict[str, float] | None:
    """The features that pass on half A beside as many random ones: how many of them hold on half B, whose questions `I` are.

    All features that pass are candidates, so that no random one can: random features are held to the filter of half B alone.
    """
    random_RP = world.random_features(candidates.tolist(), N_GROUPS).T
    arms = [fires_IF[:, units] for units in (candidates, *random_RP)]

    def held(arm: int, at: np.ndarray) -> np.ndarray:
        return holding(arms[arm][at[about_self_I[at]]], arms[arm][at[~about_self_I[at]]])

    every = np.arange(len(about_self_I))
    held_RP = np.array([held(1 + r, every) for r in range(len(random_RP))])
    for place, unit in enumerate(candidates.tolist() if random_RP.size else []):
        found.add_random(CASE, f"as dense as {unit}", random_RP[:, place], on_A, held_RP[:, place])
    return beside_rivals(
        lambda at: float(held(0, at).sum()), lambda r, at: float(held(1 + r, at).sum()), len(random_RP) if random_RP.size else 0,
        every.tolist(), world.seed, about_self_I,
    )  # fmt: skip
