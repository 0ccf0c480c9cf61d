"""Choose the best unit on one half, report it on the other, beside the best random direction through the same choice.

Shapes: I items, F units, D width, L labels, R rivals, N resamples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sae_pipeline.interpret.explanation_scores import auroc

N_RESAMPLES = 1000
RIDGE = 0.1  # of the dense probe, in mean squared norms of an item


def aurocs(value_IF: np.ndarray, positive_I: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every column at once; .5 for a unit that is silent on all items. F."""
    area_F = np.full(value_IF.shape[1], 0.5)
    active = np.flatnonzero(value_IF.max(axis=0, initial=0.0) > 0)
    positives, negatives = value_IF[positive_I][:, active], value_IF[~positive_I][:, active]
    wins = np.zeros(len(active))
    for row in positives:
        wins += (negatives < row).sum(axis=0) + 0.5 * (negatives == row).sum(axis=0)
    area_F[active] = wins / (len(positives) * len(negatives))
    return area_F


def best(score_F: np.ndarray, n: int = 1) -> list[int]:
    """The `n` units of largest score, best first; of equal ones the lower number."""
    return np.argsort(-score_F, kind="stable")[:n].tolist()


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def resamples(groups: Sequence[object], seed: int, strata: np.ndarray) -> Iterator[np.ndarray]:
    """Places of the items of groups drawn within strata, `N_RESAMPLES` times.

    Groups whose items fall into the same set of strata are exchanged among themselves: pairs stay pairs, and single items of one
    class are replaced by others of that class.
    """
    of_group: dict[object, list[int]] = {}
    for place, group in enumerate(groups):
        of_group.setdefault(group, []).append(place)
    kinds: dict[frozenset, list[np.ndarray]] = {}
    for places in of_group.values():
        kinds.setdefault(frozenset(strata[places].tolist()), []).append(np.array(places))
    generator = np.random.default_rng(seed)
    for _ in range(N_RESAMPLES):
        drawn = [members[i] for members in kinds.values() for i in generator.integers(0, len(members), len(members))]
        yield np.concatenate(drawn)


def bootstrap(groups: Sequence[object], statistic: Callable[[np.ndarray], float], seed: int, strata: np.ndarray) -> Interval:
    """Resample groups with all their items, within strata; `statistic` gets the places of the drawn items."""
    values = [statistic(at) for at in resamples(groups, seed, strata)]
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(statistic(np.arange(len(groups)))), float(low), float(high))


def beside_one_rival(
    value: float, control: float, n_rivals: int, own_N: np.ndarray, rival_of: Callable[[np.ndarray], np.ndarray],
    random: np.random.Generator,
) -> dict[str, float]:  # fmt: skip
    """Control (mean of the rivals), the difference to it, and the interval of the difference to one rival.

    `own_N`: the value in every resample. Each resample draws one rival to stand beside it on the same items; `rival_of` says what
    the rivals drawn for the resamples, N of them, come to there. Were the value a rival like the others, it would lie below some
    of them: an interval around their mean would call one such value in four special. With R rivals no chance below 1 / (R + 1)
    can be shown.
    """
    drawn_N = random.integers(0, n_rivals, len(own_N))
    low, high = np.percentile(own_N - rival_of(drawn_N), [2.5, 97.5])
    return {
        "control_value": control, "difference": value - control, "difference_low": float(low), "difference_high": float(high),
    }  # fmt: skip


def beside_rivals(
    own: Callable[[np.ndarray], float], rival: Callable[[int, np.ndarray], float], n_rivals: int, groups: Sequence[object],
    seed: int, strata: np.ndarray,
) -> dict[str, float] | None:  # fmt: skip
    """`beside_one_rival` of any statistic, over the draws of `bootstrap`. None for no rivals.

    `rival`: (number of the rival, places) -> its statistic.
    """
    if not n_rivals:
        return None
    every = np.arange(len(groups))

    def rival_of(drawn_N: np.ndarray) -> np.ndarray:
        places = resamples(groups, seed, strata)
        return np.array([rival(int(r), at) for r, at in zip(drawn_N, places, strict=True)])

    return beside_one_rival(
        own(every), float(np.mean([rival(r, every) for r in range(n_rivals)])), n_rivals,
        np.array([own(at) for at in resamples(groups, seed, strata)]), rival_of,
        np.random.default_rng([seed, n_rivals]),  # of its own: the items are drawn as without rivals
    )  # fmt: skip


@dataclass(frozen=True)
class Detection:
    """A unit and its control, both chosen on one half by AUROC (`score_F`: of all features) and tested on the other."""

    score_F: np.ndarray
    unit: int
    null_unit: int
    chosen_score: float
    chosen_null_score: float
    value: Interval
    control: float
    difference: Interval


def tested(
    value_I: np.ndarray, null_I: np.ndarray, positive_I: np.ndarray, groups: Sequence[object], seed: int
) -> tuple[Interval, float, Interval]:
    """(AUROC, the control's AUROC, their difference) of one unit and one control over the same items."""
    value = bootstrap(groups, lambda at: auroc(value_I[at], positive_I[at]), seed, positive_I)
    difference = bootstrap(
        groups, lambda at: auroc(value_I[at], positive_I[at]) - auroc(null_I[at], positive_I[at]), seed, positive_I
    )
    return value, auroc(null_I, positive_I), difference


def tested_beside(
    value_I: np.ndarray, rival_IR: np.ndarray, positive_I: np.ndarray, groups: Sequence[object], seed: int
) -> dict[str, float] | None:
    """AUROC of one unit beside that of several rivals over the same items."""
    return beside_rivals(
        lambda at: auroc(value_I[at], positive_I[at]), lambda r, at: auroc(rival_IR[at, r], positive_I[at]), rival_IR.shape[1],
        groups, seed, positive_I,
    )  # fmt: skip


def detect(
    feature_IF: np.ndarray, null_IF: np.ndarray, positive_I: np.ndarray, choose_I: np.ndarray, report_I: np.ndarray,
    groups: Sequence[object], seed: int,
) -> Detection:  # fmt: skip
    """Choose on the items `choose_I` (bool), test on `report_I`."""
    scores = [aurocs(each[choose_I], positive_I[choose_I]) for each in (feature_IF, null_IF)]
    unit, null_unit = (best(score)[0] for score in scores)
    kept = [group for group, keep in zip(groups, report_I, strict=True) if keep]
    value, control, difference = tested(
        feature_IF[report_I, unit], null_IF[report_I, null_unit], positive_I[report_I], kept, seed
    )
    return Detection(scores[0], unit, null_unit, float(scores[0][unit]), float(scores[1][null_unit]), value, control, difference)


def probe_auroc(x_ID: np.ndarray, positive_I: np.ndarray, choose_I: np.ndarray, report_I: np.ndarray) -> float:
    """The ceiling: AUROC on the reporting half of a ridge classifier over the residual stream, fitted on the choosing half."""
    mean_D = x_ID[choose_I].mean(axis=0)
    x_AD = (x_ID[choose_I] - mean_D).astype(np.float64)
    y_A = np.where(positive_I[choose_I], 1.0, -1.0)
    gram_AA = x_AD @ x_AD.T
    ridge = RIDGE * np.trace(gram_AA) / len(gram_AA)
    weight_A = np.linalg.solve(gram_AA + ridge * np.eye(len(gram_AA)), y_A - y_A.mean())
    return auroc((x_ID[report_I] - mean_D) @ (x_AD.T @ weight_A), positive_I[report_I])
