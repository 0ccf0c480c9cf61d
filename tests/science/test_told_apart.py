"""Rows of pairs and of sorted tokens: what is resampled is what is independent."""

import numpy as np
import pytest

from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.search.measure import Results, _told_apart


def told(contrasts: list[np.ndarray], concept: np.ndarray, sorts: list[np.ndarray]) -> tuple[Measurement, Measurement]:
    contrastive, sort = _told_apart(Results(64, [], [], 0, 0, [], contrasts, concept, sorts, {}, 0, "sha"))
    return contrastive, sort


def test_pairs_of_one_concept_do_not_count_as_independent():
    concept = np.repeat(np.arange(8), 50)
    value = np.repeat(np.linspace(0.2, 0.9, 8), 50)  # the same in all pairs of a concept
    half = np.full(400, 0.5)
    one, _ = told([value, half], concept, [np.ones(4), np.ones(4)])
    assert one.value == pytest.approx(0.55) and one.control_value == 0.5 and one.n_scored == 400
    spread = 1.96 * np.linspace(0.2, 0.9, 8).std() / np.sqrt(8)
    assert one.low == pytest.approx(0.55 - spread, abs=0.02) and one.high == pytest.approx(0.55 + spread, abs=0.02)
    assert one.difference_low == pytest.approx(0.05 - spread, abs=0.02)  # below zero: eight concepts do not show it
    assert one.why is not None and one.why.startswith("8 concepts")
    value[7], half[9] = np.nan, np.nan  # no unit is active on one text alone
    assert told([value, half], concept, [np.ones(4), np.ones(4)])[0].n_scored == 398
    alone, _ = told([value[:50], half[:50]], concept[:50], [np.ones(4), np.ones(4)])
    assert alone.value is not None and alone.low is None and alone.difference_low is None  # one concept has no spread
    none, _ = told([np.full(400, np.nan), half], concept, [np.ones(4), np.ones(4)])
    assert none.value is None and none.status == "too_few_examples"


def test_sorted_draws_of_features_and_of_directions_are_not_paired():
    right = np.arange(400) % 2 == 0
    own, other = right.astype(float), right.astype(float)
    _, one = told([np.ones(2), np.ones(2)], np.arange(2), [own, other])
    # The same answers in the same order: paired, their difference would have no width at all.
    spread = 1.96 * np.sqrt(2 * 0.25 / 400)
    assert one.value == one.control_value == 0.5 and one.n_control == 400
    assert one.difference_low == pytest.approx(-spread, abs=0.01) and one.difference_high == pytest.approx(spread, abs=0.01)
    _, short = told([np.ones(2), np.ones(2)], np.arange(2), [own, other[:300]])
    assert (short.n_scored, short.n_control) == (400, 300)
    _, none = told([np.ones(2), np.ones(2)], np.arange(2), [own, np.zeros(0)])
    assert none.value is None and none.status == "too_few_examples"
