"""Which SAEs the scaling laws train: features x steps at one rate, rates at the optimum of some budgets, equal L0.

A budget is a product of features and steps. Sizes and steps double, so that a budget is met by several arms. Of the grid's two
corners, whose budgets only one arm meets, none is trained.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from sae_pipeline.errors import UserError
from sae_pipeline.study_survey_laws import ScalingLaws
from sae_pipeline.survey.experiments.arms import Arm
from sae_pipeline.survey.scaling.fits import minimum

Runs = Mapping[tuple[int, int], float]  # (features, steps) -> held-out loss


def check_budget(settings: ScalingLaws, n_tokens: int) -> None:
    """Raises `UserError` when the longest training would see a token twice."""
    if max(settings.steps) * settings.batch > n_tokens:
        raise UserError(
            "survey.scaling_laws.steps", f"{max(settings.steps)} steps of {settings.batch} exceed one epoch of {n_tokens} tokens",
            f"Use at most {n_tokens // settings.batch} steps, or raise the corpus budgets.",
        )  # fmt: skip


def grid(settings: ScalingLaws, k: int) -> list[Arm]:
    """One arm per pair of features and steps, at the sweep's rate."""
    corners = {(min(settings.sizes), min(settings.steps)), (max(settings.sizes), max(settings.steps))}
    return [
        _arm(size, steps, settings.learning_rate, k, settings.seed)
        for size, steps in product(settings.sizes, settings.steps) if (size, steps) not in corners
    ]  # fmt: skip


def budgets(runs: Runs) -> list[int]:
    """Budgets (features x steps) that at least two arms meet, ascending."""
    values, counts = np.unique([size * steps for size, steps in runs], return_counts=True)
    return values[counts > 1].tolist()


def meeting(runs: Runs, budget: int) -> list[tuple[int, int]]:
    """The arms of a budget by ascending size."""
    return sorted(pair for pair in runs if pair[0] * pair[1] == budget)


def optimum(runs: Runs, budget: int) -> tuple[float, bool]:
    """(optimal number of features, whether it lies inside the sizes that were tried) of a budget."""
    arms = meeting(runs, budget)
    return minimum(np.array([size for size, _ in arms], float), np.array([runs[pair] for pair in arms]))


def rate_arms(settings: ScalingLaws, runs: Runs, k: int) -> dict[int, list[Arm]]:
    """By budget: one arm per rate at the best size and steps of that budget. Middle budgets: the first for fitting, the last to
    be predicted."""
    every = budgets(runs)
    first = max(0, (len(every) - settings.n_rate_budgets) // 2)
    chosen = every[first : first + settings.n_rate_budgets]
    result = {}
    for budget in chosen:
        size, steps = min(meeting(runs, budget), key=lambda pair: (runs[pair], pair))
        result[budget] = [_arm(size, steps, rate, k, settings.seed) for rate in settings.rates]
    return result


def dense_arms(settings: ScalingLaws) -> list[Arm]:
    """ReLU-L1 at several lambdas."""
    return [
        Arm(
            f"relu_l1-{l1:g}", "relu_l1", settings.matched_size, max(settings.steps), settings.matched_learning_rate, l1,
            settings.seed,
        )
        for l1 in settings.lambdas
    ]  # fmt: skip


def matched_arms(settings: ScalingLaws, l0: Sequence[float]) -> list[Arm]:
    """For every L0 of a ReLU-L1 arm, a batch_topk arm with that k."""
    return [
        Arm(
            f"matched-{l1:g}", "batch_topk", settings.matched_size, max(settings.steps), settings.matched_learning_rate,
            min(max(1, round(each)), settings.matched_size // 2), settings.seed,
        )
        for l1, each in zip(settings.lambdas, l0, strict=True)
    ]  # fmt: skip


def _arm(size: int, steps: int, rate: float, k: int, seed: int) -> Arm:
    return Arm(f"{size}-{steps}-{rate:g}", "batch_topk", size, steps, rate, min(k, size // 2), seed)
