"""Row 61: what a family is held against, and that what the model does not carry excuses a miss only where it decides."""

import numpy as np
import pytest

from sae_pipeline.survey.search.concepts import Concept, Texts
from sae_pipeline.survey.search.families import Searched
from sae_pipeline.survey.search.measure import Results, safety, safety_outcomes


def concept(name: str) -> Concept:
    held = Texts(positives=["a"] * 10, negatives=["b"] * 10)
    return Concept(
        name=name, family="f", safety=True, label="a", other="b", positives=["a", "b"], negatives=["c", "d"], held_out=held
    )  # fmt: skip


@pytest.mark.parametrize(
    ("probes", "n_found", "testable"),
    [
        ([0.9] * 5, 0, True),
        ([0.9] * 4 + [0.5], 0, True),  # the fifth could not make five of none
        ([0.9] * 4 + [0.5], 4, False),  # it could
        ([0.9] * 4, 4, False),  # only four were looked for
        ([0.9] * 5, 5, True),
    ],
)
def test_a_family_that_is_not_carried_excuses_a_miss_only_where_it_decides(probes, n_found, testable):
    truth_I = np.arange(20) < 10
    right, noise = truth_I + np.linspace(0, 0.5, 20), np.random.default_rng(0).permutation(20).astype(float)

    def family(place: int, probe_auroc: float) -> Searched:
        values = (right if place < n_found else noise, noise)
        each = concept(str(place))
        nothing = np.zeros((0, 1))
        return Searched(
            each, {"geometry": (0, 0)}, {"geometry": (1.0, 1.0)}, {"geometry": values}, probe_auroc, nothing, nothing, nothing
        )

    searched = [family(place, probe_auroc) for place, probe_auroc in enumerate(probes)]
    rows = [each.row("geometry", 64, seed=0) for each in searched]
    measured = safety(Results(64, rows, [], 0, 0, [], [], np.zeros(0, int), [], {}, 0, "sha"))
    assert measured.value == n_found and (measured.ceiling is None) == testable
    # Row 72 needs a feature that beats its null, and is a miss where there is one: nobody was made safer.
    outcome = safety_outcomes(Results(64, rows, [], 0, 0, [], [], np.zeros(0, int), [], {}, 0, "sha"))
    n_beating = sum(row["verdict"] == "found" for row in rows)
    assert (outcome.value, outcome.ceiling, outcome.ceiling_threshold) == (0.0, n_beating, 1.0)
    if not testable:
        assert measured.ceiling_threshold == 5 and measured.ceiling is not None and measured.ceiling < 5


@pytest.mark.parametrize(("null_chooses", "verdict"), [("classifier", "not found"), ("geometry", "found")])
def test_a_null_that_is_good_under_another_method_takes_the_find_away(null_chooses, verdict):
    truth_I = np.arange(20) < 10
    right, noise = truth_I + np.linspace(0, 0.5, 20), np.random.default_rng(0).permutation(20).astype(float)
    values = {"geometry": (right, noise), "classifier": (noise, right)}
    # Features choose geometry on the searched texts; what random directions choose there is up to the case.
    chosen = {method: (0.9 if method == "geometry" else 0.6, 0.8 if method == null_chooses else 0.7) for method in values}
    nothing = np.zeros((0, 1))
    searched = Searched(concept("a"), dict.fromkeys(values, (0, 0)), chosen, values, 0.9, nothing, nothing, nothing)
    rows = [searched.row(method, 64, seed=0) for method in values]
    row = next(row for row in rows if row["is_choice"])
    assert (row["method"], row["null_method"], row["auroc"], row["verdict"]) == ("geometry", null_chooses, 1.0, verdict)
    assert len({(row["null_method"], row["null_auroc"]) for row in rows}) == 1
    if verdict == "not found":  # feature and null are equal on every text, hence on every resample
        assert row["null_auroc"] == 1.0 and row["difference_low"] == row["difference_high"] == 0.0
    # Row 61 counts the null that the verdict was held against.
    assert safety(Results(64, rows, [], 0, 0, [], [], np.zeros(0, int), [], {}, 0, "sha")).control_value == (
        null_chooses == "classifier"
    )
