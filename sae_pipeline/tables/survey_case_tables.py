"""Tables of the case studies: what was read, which units were chosen, what a clamp did."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import HALVES, column, feature, one_of, table

UNIT_CONTROLS = ("none", "random_direction", "random_feature")

CASE_TABLES = (
    table(
        "case_items",
        "Single items of the case studies on the largest SAE: one text (or one part of it), and what the chosen unit says to it.",
        {
            "case_name": column(pl.String, "Case study"),
            "item": column(pl.Int32, "Number of the item within the case", pa.Check.ge(0)),
            "part": column(pl.String, "Language, topic, place in the list, ..."),
            "half": column(pl.String, "choose: the unit was chosen on it; report: it was held out", one_of(HALVES)),
            "text": column(pl.String, "What was read"),
            "positive": column(pl.Boolean, "Whether the item has what the feature is to detect"),
            "value": column(pl.Float64, "Largest activation of the chosen feature (multilingual: its reciprocal rank)"),
            "control_value": column(pl.Float64, "The same of the control"),
        },
        file="case_studies/case_items.parquet", key=("case_name", "item"),
    ),
    table(
        "case_features",
        "Units that the case studies chose, with their scores on both halves (AUROC, F1, excess or share, by case).",
        {
            "case_name": column(pl.String, "Case study"),
            "part": column(pl.String, "What the unit was chosen for"),
            "control": column(pl.String, "none: the case's own feature; the others: its controls", one_of(UNIT_CONTROLS)),
            "unit": column(pl.Int32, "Feature, or number of the random direction", pa.Check.ge(0)),
            "rank": column(pl.Int32, "1 is the chosen one; candidates follow. Of random features: their group", pa.Check.ge(1)),
            "score_choose": column(pl.Float64, "On the half that it was chosen on; null: not chosen on any", nullable=True),
            "score_report": column(pl.Float64, "On what was held out; null: not measured", nullable=True),
        },
        file="case_studies/case_features.parquet", key=("case_name", "part", "control", "unit", "rank"),
    ),
    table(
        "case_doses",
        "What a clamp does to one held-out prompt of a case: its own feature (arm 0), random directions and random features.",
        {
            "case_name": column(pl.String, "Case study"),
            "measurement": column(pl.String, "Measurement that it counts for"),
            "item": column(pl.Int32, "Number of the prompt", pa.Check.ge(0)),
            "text": column(pl.String, "The prompt"),
            "arm": column(pl.Int32, "0: the case's own feature; from 1: its controls, chosen alike", pa.Check.ge(0)),
            "control": column(pl.String, "none: the case's own feature", one_of(UNIT_CONTROLS)),
            "feature": feature(nullable=True),
            "factor": column(pl.Float64, "Clamped to this multiple of the training maximum"),
            "before": column(pl.Float64, "Score of the next token without a clamp (what it is, the measurement's metric says)"),
            "after": column(pl.Float64, "The same with it"),
        },
        file="case_clamps/case_doses.parquet", key=("case_name", "measurement", "arm", "factor", "item"),
    ),
    table(
        "case_generations",
        "Greedy continuations of the case studies, with and without a clamp.",
        {
            "case_name": column(pl.String, "Case study"),
            "item": column(pl.Int32, "Number of the prompt", pa.Check.ge(0)),
            "arm": column(pl.Int32, "Number of the arm", pa.Check.ge(0)),
            "control": column(pl.String, "none: its own feature clamped", one_of(("baseline", *UNIT_CONTROLS))),
            "feature": feature(nullable=True),
            "factor": column(pl.Float64, "Clamped to this multiple of the training maximum; null: not clamped", nullable=True),
            "prompt": column(pl.String, "What was continued"),
            "completion": column(pl.String, "The continuation"),
            "score": column(pl.Float64, "1: mended code, a word that was kept secret", pa.Check.in_range(0, 1)),
        },
        file="case_clamps/case_generations.parquet", key=("case_name", "item", "arm"),
    ),
)  # fmt: skip
