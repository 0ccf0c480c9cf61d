"""Tables of explanations and their scores. Every row carries unit, control, method, model, status: methods are never averaged."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import (
    CONFIDENCES,
    CONTROLS,
    EXPLANATION_KINDS,
    MAX_SCORE,
    N_INTERVALS,
    SCORED_KINDS,
    STATUSES,
    UNITS,
    column,
    count,
    feature,
    feature_exactly_for_sae_features,
    one_of,
    size,
    table,
    value_exactly_when_ok,
)
from sae_pipeline.tables.data_tables import TOKEN_INDEX

_UNIT = column(pl.String, "What is explained or scored", one_of(UNITS))
_UNIT_ID = column(pl.Int32, "Index of the unit among its kind", pa.Check.ge(0))
_CONTROL = column(pl.String, "none: the thing itself; otherwise the control that it is", one_of(CONTROLS))
_METHOD = column(pl.String, "Method; `token-stats` and `proxy` use no language model")
_MODEL = column(pl.String, "Judge model; null for offline methods", nullable=True)
_STATUS = column(pl.String, "ok, or why there is no value", one_of(STATUSES))
_COST = column(pl.Float64, "Cost in dollars", pa.Check.ge(0))
_PLUMBING = column(pl.Boolean, "Made by a model too small to be believed: a test of the pipes, in no headline")
_SCORER = column(
    pl.String,
    "Who scored: `rule` and `minilm` use no language model, `sae` encodes texts that a judge wrote, else the judge model",
)

INTERPRETATION_TABLES = (
    table(
        "explanations",
        "What a unit responds to, in one sentence, with the rule that the sentence states.",
        {
            "size": size(),
            "unit": _UNIT,
            "unit_id": _UNIT_ID,
            "feature": feature(nullable=True),
            "control": _CONTROL,
            "method": _METHOD,
            "model": _MODEL,
            "text": column(pl.String, "The sentence", nullable=True),
            "kind": column(pl.String, "What kind of thing the unit responds to", one_of(EXPLANATION_KINDS), nullable=True),
            "rule": column(pl.String, "The same as a machine-readable rule (JSON)", nullable=True),
            "status": _STATUS,
            "prompt_sha": column(pl.String, "SHA-256 of the prompt; null for offline methods", nullable=True),
            "n_examples": count("Training examples that the explainer saw"),
            "cost_usd": _COST,
            "confidence": column(pl.String, "The explainer's own; null for offline methods", one_of(CONFIDENCES), nullable=True),
            "plumbing": _PLUMBING,
        },
        file="explanations/<size>/explanations.parquet",
        key=("size", "unit", "unit_id", "control", "method", "model"),
        checks=(value_exactly_when_ok("text"), feature_exactly_for_sae_features()),
    ),
    table(
        "explanation_scores",
        "How well an explanation predicts where its unit is active on held-out tokens, one metric a row.",
        {
            "size": size(),
            "unit": _UNIT,
            "unit_id": _UNIT_ID,
            "feature": feature(nullable=True),
            "method": _METHOD,
            "metric": column(pl.String, "rule_precision, rule_recall, rule_f1, embedding_auroc, detection_auroc, ..."),
            "control": _CONTROL,
            "value": column(pl.Float64, "The metric; null when the status is not ok", nullable=True),
            "n": count("Items that the metric is computed from"),
            "status": _STATUS,
            "scorer": _SCORER,
            "plumbing": _PLUMBING,
        },
        file="explanations/<size>/explanation_scores.parquet",
        key=("size", "unit", "unit_id", "method", "metric", "control"),
        checks=(value_exactly_when_ok("value"), feature_exactly_for_sae_features()),
    ),
    table(
        "explanation_score_summaries",
        "Explainer x scorer x control: one metric over all units of a size, with 95 % bootstrap intervals by unit, and the "
        "distance from the shuffled explanation on the same units.",
        {
            "size": size(),
            "method": _METHOD,
            "scorer": _SCORER,
            "metric": column(pl.String, "As in `explanation_scores`"),
            "control": _CONTROL,
            "plumbing": _PLUMBING,
            "n_attempted": count("Units that were to be scored"),
            "n_scored": count("Units with a value"),
            "mean": column(pl.Float64, "Mean over the scored units", nullable=True),
            "low": column(pl.Float64, "Lower end of its interval", nullable=True),
            "high": column(pl.Float64, "Upper end", nullable=True),
            "median": column(pl.Float64, "Median over the scored units", nullable=True),
            "n_paired": count("Units with a value here and under the shuffled explanation"),
            "minus_shuffled": column(pl.Float64, "Mean difference of these pairs", nullable=True),
            "minus_shuffled_low": column(pl.Float64, "Lower end of its interval", nullable=True),
            "minus_shuffled_high": column(pl.Float64, "Upper end", nullable=True),
        },
        file="explanations/<size>/explanation_score_summaries.parquet",
        key=("size", "method", "scorer", "metric", "control"),
    ),
    table(
        "specificity_scores",
        "How specific an explanation is to one held-out window: the paper's rubric, 0 (unrelated) to 3 (cleanly identifies it).",
        {
            "size": size(),
            "unit": _UNIT,
            "unit_id": _UNIT_ID,
            "feature": feature(nullable=True),
            "example_id": column(pl.Int64, "The scored window, from 0 within the size", pa.Check.ge(0)),
            "kind": column(
                pl.String, "active: the unit is active there; close_look: too, more windows of a chosen feature, in no mean over "
                "features; the others are decoys", one_of(SCORED_KINDS),
            ),
            "interval": column(
                pl.Int8, "Activation interval, 1..10; null where the unit is not active",
                pa.Check.in_range(1, N_INTERVALS), nullable=True,
            ),
            "activation": column(pl.Float32, "Activation there; null for decoys", nullable=True),
            "token_index": column(pl.Int64, TOKEN_INDEX, pa.Check.ge(0)),
            "control": _CONTROL,
            "method": _METHOD,
            "model": _MODEL,
            "score": column(
                pl.Int8, "0..3; null exactly when the status is not ok", pa.Check.in_range(0, MAX_SCORE), nullable=True
            ),
            "status": _STATUS,
            "evidence": column(pl.String, "Why this score", nullable=True),
            "cost_usd": _COST,
            "plumbing": _PLUMBING,
        },
        file="specificity_scores/<size>/specificity_scores.parquet",
        key=("size", "example_id", "control", "method", "model"),
        checks=(value_exactly_when_ok("score"), feature_exactly_for_sae_features()),
    ),
    table(
        "judge_calibration",
        "Whether a judge can be believed; numbers of one that fails stay out of every headline. Empty while no judge is asked.",
        {
            "size": size(),
            "model": column(pl.String, "Judge model"),
            "prompt": column(pl.String, "Prompt file and version"),
            "label_kappa": column(pl.Float64, "Quadratically weighted kappa with ratings made by hand", nullable=True),
            "n_labels": count("Ratings made by hand"),
            "n_labels_answered": count("Of these, rated by the judge"),
            "repeat_kappa": column(pl.Float64, "Quadratically weighted kappa of two votes on the same windows", nullable=True),
            "n_repeated": count("Windows with two votes"),
            "matched_minus_shuffled_low": column(
                pl.Float64, "Lower 95 % bound of matched minus shuffled mean score on active windows", nullable=True
            ),
            "answered_share": column(pl.Float64, "Share of windows with a rating", pa.Check.in_range(0, 1)),
            "passed": column(pl.Boolean, "Whether every test was passed"),
            "reasons": column(pl.String, "Why not; empty when passed"),
            "plumbing": _PLUMBING,
            "n_proxy_pairs": count("Windows that both the judge and the proxy scored, right explanation"),
            "proxy_kappa": column(pl.Float64, "Quadratically weighted kappa of proxy and judge on them", nullable=True),
            "proxy_rank_correlation": column(pl.Float64, "Spearman's correlation of the two", nullable=True),
        },
        file="specificity_scores/<size>/judge_calibration.parquet",
        key=("size",),
    ),
)  # fmt: skip
