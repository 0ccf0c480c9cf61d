"""Row 32 on dose curves made by hand. Shape legend: K factors, C concepts."""

from dataclasses import asdict

import numpy as np
import pytest

from sae_pipeline.survey.checklist import read_checklist
from sae_pipeline.survey.steering.dose import DOSE_FACTORS, measure_monotone, monotone
from sae_pipeline.survey.verdicts import passes

RISING = [-0.3, -0.2, -0.1, 0.0, 0.01, 0.4, 0.5]  # unequal steps: ranks alone count
PEAKED = [0.0, 0.1, 0.2, 0.3, 0.2, 0.1, 0.0]  # as much below 0 as above
NEARLY = [-0.2, -0.3, 0.0, -0.1, 0.1, 0.5, 0.4]  # three neighbours swapped: 1 - 6 * 6 / (7 * 48)
NEVER = [0.0] * 7


def curves(*curve: list[float]) -> np.ndarray:
    return np.array(curve).T


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_a_curve_is_as_monotone_as_its_ranks():
    assert len(DOSE_FACTORS) == len(RISING)
    found = monotone(curves(RISING, PEAKED, RISING[::-1], NEARLY, NEVER))
    assert found == pytest.approx([1.0, 0.0, -1.0, 1 - 6 * 6 / (7 * 48), 0.0])


def test_the_share_that_rises_stands_beside_that_of_the_same_concepts_directions():
    needs = [need for section in read_checklist() for row in section.rows if row.row == 32 for need in row.needs]
    over_direction = next(need for need in needs if need.measurement == "monotone_dose_share_over_random_direction")

    def share(ours_KC: np.ndarray, theirs_KC: np.ndarray):
        return measure_monotone("share", ours_KC, "directions", theirs_KC, 20, 0, {"size": 64})

    every = curves(*[RISING] * 12)
    none = share(every, curves(*[PEAKED] * 12))
    assert (none.value, none.control_value, none.n_scored, none.n_attempted) == (1.0, 0.0, 12, 20)
    assert (none.difference, none.difference_low, none.difference_high) == (1.0, 1.0, 1.0)
    assert passes(over_direction, asdict(none))
    # All features rise, and so do all directions but two: a resample may hold neither of these.
    most = share(every, curves(*[RISING] * 10, *[PEAKED] * 2))
    assert most.difference == pytest.approx(1 / 6) and most.difference_low == 0.0
    assert not passes(over_direction, asdict(most))
    # Two halves that do not differ concept by concept; shuffled, either would have an interval around 0.
    half = curves(*[RISING] * 6, *[PEAKED] * 6)
    paired = share(half, half)
    assert (paired.value, paired.control_value) == (0.5, 0.5) and paired.low is not None and paired.low < 0.5
    assert (paired.difference, paired.difference_low, paired.difference_high) == (0.0, 0.0, 0.0)
