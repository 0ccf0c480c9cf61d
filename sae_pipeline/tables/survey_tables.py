"""Tables of the survey, made after the main run. In a database that was built before it they are empty."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import column, count, feature, one_of, size, table

VERDICTS = ("reproduced", "not reproduced", "not testable")
MEASURED = ("ok", "not_testable", "too_few_examples")


def _number(description: str) -> pa.Column:
    return column(pl.Float64, description, nullable=True)


def _text(description: str) -> pa.Column:
    return column(pl.String, description, nullable=True)


_BESIDE = {
    "low": _number("Lower end of the 95 % interval of the value"),
    "high": _number("Upper end of the 95 % interval of the value"),
    "control": _text("What stands beside the value, run through the same measurement and the same selection"),
    "control_value": _number("The control's value"),
    "difference": _number("Value minus control, over the same items; null without a control"),
    "difference_low": _number("Lower end of the 95 % interval of the difference"),
    "difference_high": _number("Upper end of the 95 % interval of the difference"),
}

SURVEY_TABLES = (
    table(
        "feature_neighbours",
        "The nearest features of every feature, within its size and in every other one, by cosine of decoder rows. Exact.",
        {
            "size": size(),
            "feature": feature(),
            "neighbour_size": column(pl.Int32, "Size of the SAE in which neighbours were looked for", pa.Check.ge(1)),
            "rank": column(pl.Int16, "1 is the nearest", pa.Check.ge(1)),
            "neighbour": column(pl.Int32, "Feature index of the neighbour; never the feature itself", pa.Check.ge(0)),
            "cosine": column(pl.Float32, "Cosine of the two decoder rows", pa.Check.in_range(-1, 1)),
        },
        file="neighbourhoods/feature_neighbours.parquet", key=("size", "feature", "neighbour_size", "rank"),
    ),
    table(
        "feature_map",
        "Where a feature lies on the map: UMAP of the decoder rows of all sizes together. For display; distances mean little.",
        {
            "size": size(),
            "feature": feature(),
            "x": column(pl.Float32, "Horizontal place, no unit", pa.Check.in_range(-1e4, 1e4)),
            "y": column(pl.Float32, "Vertical place, no unit", pa.Check.in_range(-1e4, 1e4)),
        },
        file="neighbourhoods/feature_map.parquet", key=("size", "feature"),
    ),
    table(
        "survey_measurements",
        "Every measurement of the survey, each beside its control; what `survey_verdicts` is decided from.",
        {
            "stage": column(pl.String, "The asset that measured it"),
            "measurement": column(pl.String, "Name, as in the checklist"),
            "size": column(pl.Int32, "Size of the SAE; null when it is about no single one", pa.Check.ge(1), nullable=True),
            "metric": column(pl.String, "What the value is, with its unit"),
            "value": _number("The measured value; null when it could not be measured"),
            **_BESIDE,
            "n_scored": count("Items that the value is over"),
            "n_attempted": count("Items that were tried"),
            "n_control": column(pl.Int64, "Items that the control is over, where it has items of its own", nullable=True),
            "n_seeds": count("Seeds of SAE training that the value is over"),
            "ceiling_metric": _text("What shows whether the model carries the matter at all"),
            "ceiling": _number("Its value"),
            "ceiling_threshold": _number("Below this the matter is not testable on this model"),
            "status": column(pl.String, "Whether it could be measured", one_of(MEASURED)),
            "why": _text("Why not, or what to know about the number"),
            "files_sha": _text("Digest of the committed prompts and concepts that it was measured with"),
            "rows": _text("Table that holds the single items"),
            "figure": _text("Name of the figure that shows it"),
        },
        file="<stage>/measurements.parquet", key=("measurement", "size"),
        checks=(
            pa.Check(
                lambda data: data.lazyframe.select((pl.col("status") != "ok") | pl.col("value").is_not_null()),
                name="value_where_status_is_ok",
            ),
        ),
    ),
    table(
        "survey_verdicts",
        "The checklist of the paper's results, row by row: claim, number, control, threshold, verdict.",
        {
            "row": column(pl.Int16, "Row of the checklist", pa.Check.in_range(1, 72)),
            "section": column(pl.String, "Part of the paper"),
            "claim": column(pl.String, "What is claimed"),
            "stage": column(pl.String, "The asset that measured it"),
            "measurement": column(pl.String, "The measurement that decides, or the first of several"),
            "size": column(pl.Int32, "Size of the SAE; null when it is about no single one", pa.Check.ge(1), nullable=True),
            "metric": column(pl.String, "What the value is, with its unit"),
            "value": _number("The measured value"),
            **_BESIDE,
            "control_by_construction": _text("Why the control could not have come out otherwise; null for one that was measured"),
            "n_scored": count("Items that the value is over"),
            "n_attempted": count("Items that were tried"),
            "n_control": column(pl.Int64, "Items that the control is over, where it has items of its own", nullable=True),
            "n_seeds": count("Seeds of SAE training that the value is over"),
            "threshold": column(pl.String, "What all its tests ask for"),
            "tests": column(pl.String, "Every test with its outcome"),
            "expected": column(pl.String, "The prediction, written before the first run", one_of(VERDICTS)),
            "verdict": column(pl.String, "Follows from the tests, by code", one_of(VERDICTS)),
            "why": _text("Why it is not testable, or what to know about the number"),
            "rows": _text("Table that holds the single items"),
            "figure": _text("Name of the figure that shows it"),
            "checklist_sha": column(pl.String, "Digest of claims, predictions and thresholds"),
            "files_sha": _text("Digests of the committed prompts and concepts of all measurements of the row"),
        },
        file="survey_verdicts/survey_verdicts.parquet", key=("row",),
    ),
)  # fmt: skip
