"""The model's self (paper, 'Features relating to the model's representation of self'): active on questions about itself and not
on questions of the same form about the weather."""

import numpy as np

from sae_pipeline.survey.cases.case import DIRECTION, FIGURE, Found, World
from sae_pipeline.survey.cases.prompts import digest, half_of, load
from sae_pipeline.survey.cases.reading import from_ids
from sae_pipeline.survey.measurement import Measurement

CASE, N_KEPT = "self_features", 3
ON_SELF, ON_OTHER = 0.5, 0.0  # shares of half A's prompts on which a unit fires at least, at most
STILL_ON_SELF, STILL_ON_OTHER = 0.25, 0.125  # the same on half B


def passing(fires_IF: np.ndarray, about_self_I: np.ndarray) -> np.ndarray:
    """The filter of half A, on its questions: fires on the model itself, never on the weather. Bool, F."""
    return (fires_IF[about_self_I].mean(axis=0) >= ON_SELF) & (fires_IF[~about_self_I].mean(axis=0) <= ON_OTHER)


def surviving(fires_IF: np.ndarray, about_self_I: np.ndarray, choose_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(units that pass the filter on half A, those of them that pass on half B), bool F."""

    def rate(items: np.ndarray) -> np.ndarray:
        return fires_IF[items].mean(axis=0)

    passed_F = passing(fires_IF[choose_I], about_self_I[choose_I])
    held_F = (rate(about_self_I & ~choose_I) >= STILL_ON_SELF) & (rate(~about_self_I & ~choose_I) <= STILL_ON_OTHER)
    return passed_F, passed_F & held_F


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
            on_self, on_other = (each[np.ix_(places, among)].mean(axis=0) for places in drawn)
            counts[name].append(int(((on_self >= STILL_ON_SELF) & (on_other <= STILL_ON_OTHER)).sum()))
    low, high = np.percentile(counts["features"], [2.5, 97.5])
    apart = np.array(counts["features"]) - np.array(counts["null"])
    n_null = int(passed["null"][1].sum())
    found.measurements.append(
        Measurement(
            "self_features", "features active on questions about the model and silent on questions about the weather",
            float(len(kept)), int(passed["features"][0].sum()), world.size, world.size, float(low), float(high),
            DIRECTION.replace("the best of as many", "as many").replace("chosen alike", "through the same filter"), float(n_null),
            float(len(kept) - n_null), float(np.percentile(apart, 2.5)), float(np.percentile(apart, 97.5)),
            why=f"{len(candidates)} pass on half A; scored on other questions of the same two kinds",
            files_sha=digest("self"), rows="case_features", figure=FIGURE,
        )
    )  # fmt: skip
    return found
