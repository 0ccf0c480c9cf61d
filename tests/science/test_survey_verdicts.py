"""Verdicts follow from measurements and thresholds, whatever the row is about; every row of the checklist is readable."""

from dataclasses import replace

import polars as pl
import pytest
from pydantic import ValidationError

from sae_pipeline.survey.build_verdicts import build_verdicts
from sae_pipeline.survey.checklist import Need, Row, Section, read_checklist
from sae_pipeline.survey.controls import BY_CONSTRUCTION, ONLY_BESIDE
from sae_pipeline.survey.limitations import limitations, read_limitations
from sae_pipeline.survey.measurement import Measurement, too_few, write_measurements
from sae_pipeline.survey.verdicts import decide


def sections(*needs: Need) -> list[Section]:
    return [Section(section="Part", rows=[Row(row=1, claim="A claim", expect="reproduced", needs=list(needs))])]


def verdict(tmp_path, needs: list[dict], *measurements: Measurement) -> dict:
    frame = write_measurements(tmp_path, "a_stage", measurements)
    (row,) = decide(sections(*(Need(**need) for need in needs)), frame).to_dicts()
    return row


def one(value: float | None = 1.0, **fields) -> Measurement:
    return Measurement("it", "its metric", value, 10, 12, **fields)


@pytest.mark.parametrize(
    ("criterion", "fields", "expected"),
    [
        ({"at_least": 1.0}, {}, "reproduced"),
        ({"at_least": 1.01}, {}, "not reproduced"),
        ({"at_most": 1.0}, {}, "reproduced"),
        ({"at_most": 0.99}, {}, "not reproduced"),
        ({"low_above": 0.5}, {"low": 0.6, "high": 2}, "reproduced"),
        ({"low_above": 0.6}, {"low": 0.6, "high": 2}, "not reproduced"),  # touching is not above
        ({"low_above": 0.5}, {}, "not reproduced"),  # no interval
        ({"beats_control_by": 0.2}, {"control": "random", "control_value": 0.7}, "reproduced"),
        ({"beats_control_by": 0.2}, {"control": "random", "control_value": 0.9}, "not reproduced"),
        ({"beats_control_by": 0.2}, {}, "not reproduced"),  # no control
        ({"difference_low_above": 0}, {"difference": 0.3, "difference_low": 0.1}, "reproduced"),
        ({"difference_low_above": 0}, {"difference": 0.3, "difference_low": -0.1}, "not reproduced"),
    ],
)
def test_a_test_is_met_by_its_own_number_only(tmp_path, criterion, fields, expected):
    row = verdict(tmp_path, [{"measurement": "it", **criterion}], one(**fields))
    assert row["verdict"] == expected and row["n_scored"] == 10 and row["n_attempted"] == 12 and row["stage"] == "a_stage"


@pytest.mark.parametrize(
    ("criterion", "fields", "expected"),
    [
        ({"at_least": 0.5}, {"control_value": 0.9}, "reproduced"),
        ({"at_least": 0.5}, {"control_value": 1.0}, "not reproduced"),  # the control does as well
        ({"at_least": 0.5}, {"control_value": 0.9, "difference_low": -0.1, "difference_high": 0.3}, "not reproduced"),
        ({"at_most": 1.5}, {"control_value": 1.2}, "reproduced"),
        ({"at_most": 1.5}, {"control_value": 0.8}, "not reproduced"),
        ({"at_most": 1.5}, {"control_value": 1.2, "difference_low": -0.5, "difference_high": 0.1}, "not reproduced"),
        ({"at_least": 0.5}, {}, "reproduced"),  # a measurement without a control
    ],
)
def test_a_threshold_that_its_control_passes_as_well_is_missed(tmp_path, criterion, fields, expected):
    row = verdict(tmp_path, [{"measurement": "it", **criterion}], one(control="random", **fields))
    assert row["verdict"] == expected


@pytest.mark.parametrize(
    ("criterion", "fields", "said"),
    [
        ({"at_least": 0.9}, {"low": 0.95, "high": 1.1}, "it 1: met"),
        ({"at_least": 0.9}, {"low": 0.7, "high": 1.3}, "it 1: met by the value alone (interval from 0.7)"),
        ({"at_most": 1.5}, {"low": 0.7, "high": 1.4}, "it 1: met"),
        ({"at_most": 1.5}, {"low": 0.7, "high": 1.9}, "it 1: met by the value alone (interval to 1.9)"),
        ({"beats_control_by": 0.2}, {"difference_low": 0.1, "difference_high": 0.9}, "value alone (interval from 0.1)"),
        ({"beats_control_by": 0.2}, {"difference_low": 0.3, "difference_high": 0.9}, ": met"),
        ({"low_above": 0.5}, {"low": 0.6, "high": 2}, "it 1: met"),
        ({"at_least": 1.1}, {"low": 0.7, "high": 1.3}, "it 1: missed"),
    ],
)
def test_a_value_whose_interval_reaches_beyond_the_threshold_is_said_to_pass_alone(tmp_path, criterion, fields, said):
    beside = {"control": "random", "control_value": 0.5, "difference": 0.5} if "beats_control_by" in criterion else {}
    row = verdict(tmp_path, [{"measurement": "it", **criterion}], one(**fields, **beside))
    assert row["tests"].endswith(said)


def test_what_was_judged_once_keeps_its_reason(tmp_path):
    low = one(5.0, ceiling_metric="accuracy", ceiling=0.4, ceiling_threshold=0.6, why="as drawn")
    (first,) = write_measurements(tmp_path, "a_stage", [low]).drop("stage").iter_rows(named=True)
    again = write_measurements(tmp_path, "a_stage", [Measurement(**first)])
    assert again["why"].to_list() == ["accuracy is 0.4, below 0.6; as drawn"] and again["status"].to_list() == ["not_testable"]


def test_every_test_must_pass_and_all_are_said(tmp_path):
    second = Measurement("other", "another metric", 0.2, 5, 5)
    needs = [{"measurement": "it", "at_least": 0.5}, {"measurement": "other", "at_least": 0.5}]
    row = verdict(tmp_path, needs, one(), second)
    assert row["verdict"] == "not reproduced"
    assert row["tests"] == "it 1: met; other 0.2: missed"
    assert row["threshold"] == "its metric at least 0.5; another metric at least 0.5"


def test_a_row_carries_the_digests_of_all_its_measurements_once_each(tmp_path):
    others = [
        Measurement(name, "its metric", 1.0, 5, 5, files_sha=sha) for name, sha in (("b", "two"), ("c", "one"), ("d", None))
    ]
    needs = [{"measurement": name, "at_least": 0.5} for name in ("it", "b", "c", "d")]
    assert verdict(tmp_path, needs, one(files_sha="one"), *others)["files_sha"] == "one; two"
    assert verdict(tmp_path, needs[:1], one())["files_sha"] is None


def test_below_its_ceiling_a_row_is_not_testable_whatever_the_value(tmp_path):
    low = one(5.0, ceiling_metric="accuracy of the model", ceiling=0.4, ceiling_threshold=0.6)
    row = verdict(tmp_path, [{"measurement": "it", "at_least": 0.5}], low)
    assert row["verdict"] == "not testable" and row["why"] == "accuracy of the model is 0.4, below 0.6"
    high = one(5.0, ceiling_metric="accuracy of the model", ceiling=0.6, ceiling_threshold=0.6)
    assert verdict(tmp_path, [{"measurement": "it", "at_least": 0.5}], high)["verdict"] == "reproduced"


def test_the_largest_size_decides_unless_every_size_must(tmp_path):
    small, large = one(0.1, size=32), one(0.9, size=64)
    need = {"measurement": "it", "at_least": 0.5}
    assert verdict(tmp_path, [need], small, large)["verdict"] == "reproduced"
    row = verdict(tmp_path, [need | {"sizes": "every"}], small, large)
    assert row["verdict"] == "not reproduced" and row["tests"] == "it at 64 0.9: met; it at 32 0.1: missed"


def test_a_value_that_is_not_there_is_no_number(tmp_path):
    row = verdict(tmp_path, [{"measurement": "it", "at_most": 1}], one(None, why="as drawn", **too_few("words", 2, 12)))
    assert row["verdict"] == "not testable" and row["value"] is None and row["why"] == "words is 2, below 12; as drawn"
    assert row["tests"] == "it not measured: not testable"
    with pytest.raises(Exception, match="value_where_status_is_ok"):
        write_measurements(tmp_path, "a_stage", [one(None)])


@pytest.mark.parametrize(
    "without",
    [{}, {"ceiling_metric": "words", "ceiling": 2.0}, {"ceiling_metric": "words", "ceiling": 12.0, "ceiling_threshold": 12.0}],
)
@pytest.mark.parametrize("status", ["too_few_examples", "not_testable"])
def test_without_a_count_or_a_ceiling_below_what_it_takes_a_missing_value_is_a_miss(tmp_path, without, status):
    needs = [{"measurement": "there", "at_least": 0}, {"measurement": "it", "at_most": 1}]
    there = Measurement("there", "another metric", 1.0, 5, 5)
    row = verdict(tmp_path, needs, there, one(None, status=status, why="nobody knows", **without))
    assert row["verdict"] == "not reproduced" and row["tests"] == "there 1: met; it not measured: missed"
    assert row["why"] == "nobody knows" and row["measurement"] == "it"


@pytest.mark.parametrize("order", [1, -1])
def test_a_clear_miss_does_not_hide_behind_another_test_s_ceiling(tmp_path, order):
    """Of two languages one is missed and the other is not carried by the model."""
    missed = one(0.2, why="read on 10 texts")
    carried = Measurement("other", "another metric", 0.3, 5, 5, ceiling_metric="probe", ceiling=0.5, ceiling_threshold=0.65)
    needs = [{"measurement": "it", "at_least": 0.5}, {"measurement": "other", "at_least": 0.5}][::order]
    row = verdict(tmp_path, needs, missed, carried)
    assert (row["verdict"], row["measurement"], row["why"]) == ("not reproduced", "it", "read on 10 texts")
    met = verdict(tmp_path, needs, replace(missed, value=0.9), carried)
    assert (met["verdict"], met["measurement"]) == ("not testable", "other")


def test_a_control_with_items_of_its_own_says_how_many(tmp_path):
    row = verdict(
        tmp_path, [{"measurement": "it", "at_least": 0}], one(control="random", control_value=0.1, n_control=7, n_seeds=3)
    )
    assert (row["n_control"], row["n_seeds"]) == (7, 3)
    assert verdict(tmp_path, [{"measurement": "it", "at_least": 0}], one())["n_control"] is None


def test_what_nobody_measured_is_named(tmp_path):
    frame = write_measurements(tmp_path, "a_stage", [one()])
    with pytest.raises(ValueError, match="no stage measured other"):
        decide(sections(Need(measurement="it", at_least=0), Need(measurement="other", at_least=0)), frame)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_measurements(tmp_path / name, name, [one()])
    with pytest.raises(ValueError, match="measured twice: it"):
        build_verdicts([tmp_path / "a", tmp_path / "b"], tmp_path)


def test_a_test_has_exactly_one_criterion():
    for criteria in ({}, {"at_least": 1, "at_most": 2}):
        with pytest.raises(ValidationError, match="exactly one"):
            Need.model_validate({"measurement": "it"} | criteria)


def test_the_checklist_has_72_rows_and_its_verdicts_carry_its_digest(tmp_path):
    checklist = read_checklist()
    rows = [row for section in checklist for row in section.rows]
    assert [row.row for row in rows] == list(range(1, 73))
    names = {need.measurement for row in rows for need in row.needs}
    measured = [Measurement(name, name, 0.0, 1, 1, control="c", control_value=0.0) for name in sorted(names)]
    write_measurements(tmp_path, "a_stage", measured)
    outcome = build_verdicts([tmp_path], tmp_path)
    verdicts = pl.read_parquet(tmp_path / "survey_verdicts.parquet")
    assert outcome.metadata["n_rows"] == 72 and verdicts["checklist_sha"].n_unique() == 1
    assert set(verdicts["verdict"]) == {"not reproduced"}  # nothing is above its control


def test_a_control_that_could_not_have_come_out_otherwise_is_said_to_be_one(tmp_path):
    faulty = Measurement("clamp_error", "a change", 1e-6, 5, 5, control="the error term left out", control_value=4.7)
    need = {"measurement": "clamp_error", "at_most": 1e-3}
    assert verdict(tmp_path, [need], faulty)["control_by_construction"] == "a deliberate fault"
    assert verdict(tmp_path, [{"measurement": "it", "at_least": 0}], one(control="random"))["control_by_construction"] is None
    assert verdict(tmp_path, [need], replace(faulty, control=None))["control_by_construction"] is None
    steered = Measurement("repetition_at_100", "share", 0.2, 5, 5, control="unsteered", control_value=0.0)
    need = {"measurement": "repetition_at_100", "at_least": 0}
    assert verdict(tmp_path, [need], steered)["control_by_construction"] is not None
    assert verdict(tmp_path, [need], replace(steered, control="random_direction"))["control_by_construction"] is None
    asked = {need.measurement for section in read_checklist() for row in section.rows for need in row.needs}
    assert asked >= BY_CONSTRUCTION.keys() | {name for name, _ in ONLY_BESIDE}


def test_limitations_name_measurements_that_the_checklist_knows():
    asked = {need.measurement for section in read_checklist() for row in section.rows for need in row.needs}
    named = {name for entry in read_limitations() for name in entry["measured"]}
    assert named and named <= asked
    answered = limitations()
    assert answered.value is not None and answered.value < 1  # two are open, and say so
    assert answered.n_attempted == len(read_limitations()) and answered.why is not None and answered.why.count(";") == 2
