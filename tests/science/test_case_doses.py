"""What a dose is chosen by and how what it changes is held against rivals, on made-up numbers."""

import numpy as np
import pytest

from sae_pipeline.survey.cases.clamping import Dose
from sae_pipeline.survey.cases.doses import all_doses, best_doses, compared
from sae_pipeline.survey.cases.pronouns import slopes


def test_the_best_affordable_dose_is_taken_and_the_cheapest_when_none_is():
    doses = [Dose(1, 2.0), Dose(1, 4.0), Dose(2, 2.0), Dose(3, 2.0, 1)]
    score, extra, asked = np.array([1.0, 9.0, 2.0, 50.0]), np.array([0.1, 3.0, 0.5, 0.0]), []

    def cost(some, more=0.0):
        asked.append(list(some))
        return extra[[doses.index(dose) for dose in some]] + more

    assert best_doses(doses, score, cost) == ([Dose(2, 2.0), Dose(3, 2.0, 1)], [0.5, 0.0])
    # What was affordable at once is not asked again, and what is worse than the chosen one never.
    assert asked == [[Dose(1, 4.0), Dose(3, 2.0, 1)], [Dose(2, 2.0)]]
    assert best_doses(doses, score, lambda some: cost(some, 5.0)) == ([Dose(1, 2.0), Dose(3, 2.0, 1)], [5.1, 5.0])


def test_doses_asked_one_after_the_other_are_those_of_asking_for_all():
    random = np.random.default_rng(0)
    for _ in range(50):
        doses = [Dose(unit, factor, bank) for bank in (0, 1, 2, -1) for unit in range(3) for factor in (1.0, 2.0)]
        score, extra = random.integers(0, 5, len(doses)).astype(float), random.uniform(0, 2, len(doses))
        taken, _ = best_doses(doses, score, lambda some, extra=extra, doses=doses: extra[[doses.index(dose) for dose in some]])
        for bank, dose in zip((0, 1, 2, -1), taken, strict=True):
            mine = [place for place, each in enumerate(doses) if each.bank == bank]
            payable = [place for place in mine if extra[place] <= 1.0]
            best = max(payable, key=lambda place: score[place]) if payable else min(mine, key=lambda place: extra[place])
            assert dose == doses[best]


def test_doses_are_every_candidate_of_every_bank_at_every_factor():
    assert all_doses({0: [4, 2], 1: [7]}, [2, 1]) == [
        Dose(4, 1),
        Dose(4, 2),
        Dose(2, 1),
        Dose(2, 2),
        Dose(7, 1, 1),
        Dose(7, 2, 1),
    ]


def test_a_change_beyond_the_rivals_has_an_interval_above_zero_and_chance_has_not():
    random = np.random.default_rng(0)
    own, rivals = random.normal(1.0, 0.3, 30), random.normal(0.0, 0.3, (4, 30))
    assert compared(own, rivals, 0)["difference_low"] > 0.5
    chance = compared(random.normal(0.0, 0.3, 30), rivals, 0)
    assert chance["difference_low"] < 0 < chance["difference_high"]
    assert chance["difference"] == pytest.approx(chance["value"] - chance["control_value"])


def test_one_of_many_alike_is_rarely_beyond_the_others():
    """Nine exchangeable units: the first may count as special in about one case of nine, and one that is far off must."""
    n_special = {1.0: 0, 6.0: 0}
    for trial in range(60):
        random = np.random.default_rng(trial)
        effects = random.normal(0.0, 1.0, 9)
        score_UP = effects[:, None] + random.normal(0.0, 0.5, (9, 12))
        for far in n_special:
            own_P = score_UP[0] if far == 1.0 else score_UP[0] - effects[0] + far
            n_special[far] += compared(own_P, score_UP[1:], trial)["difference_low"] > 0
    assert n_special[1.0] <= 11 and n_special[6.0] == 60


def test_prompts_of_one_template_are_drawn_together():
    """Forty prompts of four templates that disagree: by prompt the mean looks certain, by template it is not."""
    own = np.repeat([-1.0, 0.0, 1.0, 2.0], 10)
    rivals, groups = np.zeros((2, 40)), [f"template {place // 10}" for place in range(40)]
    alone, together = compared(own, rivals, 0), compared(own, rivals, 0, groups)
    assert alone["value"] == together["value"] == 0.5 and alone["difference_low"] > 0 > together["difference_low"]
    resampled = np.random.default_rng(1).choice([-1.0, 0.0, 1.0, 2.0], (20_000, 4)).mean(axis=1)
    np.testing.assert_allclose([together["low"], together["high"]], np.percentile(resampled, [2.5, 97.5]), atol=0.26)
    one = compared(own, rivals, 0, ["same"] * 40)
    assert one["low"] == one["high"] == one["value"]


def test_slopes_are_exact_on_lines():
    factors = [-4.0, -2.0, 0.0, 1.0, 4.0]
    lines = np.array([[0.5 + 0.1 * factor, 2.0 - 0.3 * factor] for factor in factors])
    np.testing.assert_allclose(slopes(lines, factors), [0.1, -0.3])
