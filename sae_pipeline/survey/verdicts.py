"""Verdicts: the checklist's tests applied to the measurements. Nothing here knows what any row is about."""

from typing import Any

import polars as pl

from sae_pipeline.survey.checklist import CRITERIA, Need, Row, Section, checklist_sha
from sae_pipeline.survey.controls import by_construction
from sae_pipeline.tables.schemas import conform, empty

NOT_TESTABLE = "not testable"


def decide(sections: list[Section], measurements: pl.DataFrame) -> pl.DataFrame:
    """Table `survey_verdicts` from table `survey_measurements`.

    Raises `ValueError` that names every measurement which the checklist asks for and nobody made: a row without a verdict is a
    fault of ours, not a result.
    """
    asked = {need.measurement for section in sections for row in section.rows for need in row.needs}
    if missing := sorted(asked - set(measurements["measurement"])):
        raise ValueError(f"no stage measured {', '.join(missing)}")
    rows = [_verdict(section.section, row, measurements) for section in sections for row in section.rows]
    return conform("survey_verdicts", pl.DataFrame(rows, schema=empty("survey_verdicts").schema))


def _verdict(section: str, row: Row, measurements: pl.DataFrame) -> dict[str, Any]:
    found = [(need, _measured(need, measurements)) for need in row.needs]
    outcomes = [(need, one, passes(need, one)) for need, measured in found for one in measured]
    untestable = [one for _, one, _ in outcomes if _is_untestable(one)]
    missed = [one for _, one, passed in outcomes if not passed and not _is_untestable(one)]
    # A clear miss is one, whatever could not be tested besides.
    verdict = "not reproduced" if missed else NOT_TESTABLE if untestable else "reproduced"
    # What is missing without a reason in numbers is a miss, and is shown as one.
    missing = [one for one in missed if one["status"] != "ok"]
    measured = [one for _, one, _ in outcomes if not _is_untestable(one)]
    shown = (missing or measured if missed else untestable or measured)[0]
    # Whatever is shown, the row rests on the files of all its measurements.
    digests = dict.fromkeys(one["files_sha"] for _, one, _ in outcomes if one["files_sha"] is not None)
    columns = (
        "stage", "measurement", "size", "metric", "value", "low", "high", "control", "control_value", "difference",
        "difference_low", "difference_high", "n_scored", "n_attempted", "n_control", "n_seeds", "why", "rows", "figure",
    )  # fmt: skip
    return {name: shown[name] for name in columns} | {
        "control_by_construction": by_construction(shown["measurement"], shown["control"]),
        "files_sha": "; ".join(digests) or None,
        "row": row.row, "section": section, "claim": row.claim, "expected": row.expect, "verdict": verdict,
        "threshold": "; ".join(_threshold(need, measured[0]) for need, measured in found),
        "tests": "; ".join(_said(need, one, passed) for need, one, passed in outcomes), "checklist_sha": checklist_sha(),
    }  # fmt: skip


def _is_untestable(one: dict[str, Any]) -> bool:
    """Whether a measurement could not be taken, and a ceiling or a count below what it takes shows why."""
    ceiling, threshold = one["ceiling"], one["ceiling_threshold"]
    if one["status"] == "ok" or one["ceiling_metric"] is None or ceiling is None or threshold is None:
        return False
    return ceiling < threshold


def _measured(need: Need, measurements: pl.DataFrame) -> list[dict[str, Any]]:
    """The measurement of every size, or of the largest; of the study as a whole where it is about no size."""
    found = (
        measurements.filter(pl.col("measurement") == need.measurement).sort("size", descending=True, nulls_last=True).to_dicts()
    )
    return found if need.sizes == "every" else found[:1]


def passes(need: Need, one: dict[str, Any]) -> bool:
    """Whether a measurement meets a test. A number that is not there meets none."""
    name, threshold = need.criterion
    column = {
        "at_least": "value", "at_most": "value", "low_above": "low", "beats_control_by": "difference",
        "difference_low_above": "difference_low",
    }[name]  # fmt: skip
    number = one[column]
    if one["status"] != "ok" or number is None:
        return False
    if not _beats_control(name, one):
        return False
    if name == "at_most":
        return number <= threshold
    # An interval that only touches its bound excludes nothing.
    return number > threshold if name in ("low_above", "difference_low_above") else number >= threshold


def _beats_control(criterion: str, one: dict[str, Any]) -> bool:
    """A row that passes only without its control is no result. Where the difference has an interval, that decides."""
    side = -1 if criterion == "at_most" else 1
    end = one["difference_high" if side < 0 else "difference_low"]
    difference = one["difference"] if end is None else end
    return difference is None or side * difference > 0


def _met(need: Need, one: dict[str, Any]) -> str:
    """Whether the whole interval meets the threshold, or the value alone: thresholds of values do not ask for intervals."""
    name, threshold = need.criterion
    end = one[{"at_most": "high", "beats_control_by": "difference_low"}.get(name, "low")]
    # Tests of an interval's end have nothing to add; neither has a value without an interval.
    if name in ("low_above", "difference_low_above") or end is None:
        return "met"
    within = end <= threshold if name == "at_most" else end >= threshold
    return "met" if within else f"met by the value alone (interval {'to' if name == 'at_most' else 'from'} {end:.3g})"


def _threshold(need: Need, one: dict[str, Any]) -> str:
    name, x = need.criterion
    text = CRITERIA[name].format(metric=one["metric"], control=one["control"] or "its control", x=x)
    return f"{text} at every size" if need.sizes == "every" else text


def _said(need: Need, one: dict[str, Any], passed: bool) -> str:
    at = f" at {one['size']}" if one["size"] is not None else ""
    value = "not measured" if one["value"] is None else f"{one['value']:.4g}"
    if need.criterion[0] in ("beats_control_by", "difference_low_above") and one["control_value"] is not None:
        value += f" against {one['control_value']:.4g}"
    outcome = NOT_TESTABLE if _is_untestable(one) else _met(need, one) if passed else "missed"
    if outcome == "missed" and not _beats_control(need.criterion[0], one):
        outcome = f"missed (control {one['control_value']:.4g})" if one["control_value"] is not None else outcome
    return f"{need.measurement}{at} {value}: {outcome}"
