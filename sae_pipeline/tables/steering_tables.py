"""Tables of the steering evals: every generated text, scores by factor, one summary row per steered feature."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import (
    CONTROLS,
    HALVES,
    SELECTIONS,
    STEERING_MODES,
    column,
    count,
    feature,
    one_of,
    share,
    size,
    table,
)

_TARGET = column(
    pl.Int32, "The steered feature that this row belongs to or stands beside as a control", pa.Check.ge(0), nullable=True
)
_CONTROL = column(pl.String, "none: the feature itself; baseline: unsteered; otherwise the control", one_of(CONTROLS))
_MODE = column(pl.String, "clamp (r + (c - f) d / s), add (r + c d / s) or none", one_of(STEERING_MODES))
_FACTOR = column(pl.Float64, "c as a multiple of the feature's training maximum; null when nothing is steered", nullable=True)
_HALF = column(pl.String, "choose: prompts that pick the factor; report: prompts that everything is reported on", one_of(HALVES))

STEERING_TABLES = (
    table(
        "steering_generations",
        "One generated completion.",
        {
            "size": size(),
            "feature": feature(nullable=True),
            "unit_id": column(pl.Int32, "Index of the steered unit among its kind; null when nothing is steered", nullable=True),
            "target_feature": _TARGET,
            "control": _CONTROL,
            "mode": _MODE,
            "factor": _FACTOR,
            "half": _HALF,
            "prompt_id": column(pl.Int16, "Prompt, from 0", pa.Check.ge(0)),
            "sample": column(pl.Int16, "Sample of this prompt, from 0", pa.Check.ge(0)),
            "prompt": column(pl.String, "The prompt"),
            "completion": column(pl.String, "What the model wrote"),
            "n_tokens": column(pl.Int32, "Generated tokens", pa.Check.ge(0)),
            "concept_hit": column(pl.Boolean, "Whether a concept term of the target occurs", nullable=True),
            "cross_entropy": column(pl.Float64, "Nats per token under the unsteered model", nullable=True),
            "repetition": column(pl.Float64, "Share of repeated 4-grams", pa.Check.in_range(0, 1), nullable=True),
            "fluent": column(pl.Boolean, "Cross-entropy within 1 nat and repetition within 0.1 of baseline", nullable=True),
        },
        file="steering_evals/<size>/steering_generations.parquet",
        key=("size", "target_feature", "unit_id", "control", "mode", "factor", "prompt_id", "sample"),
    ),
    table(
        "steering_scores",
        "One metric of one arm (feature or control) at one factor.",
        {
            "size": size(),
            "target_feature": _TARGET,
            "control": _CONTROL,
            "mode": _MODE,
            "factor": _FACTOR,
            "half": _HALF,
            "metric": column(pl.String, "concept_rate, log_odds, fluency, distinct_2, cross_entropy, repetition, ..."),
            "value": column(pl.Float64, "The metric", nullable=True),
            "low": column(pl.Float64, "Lower end of its 95 % interval", nullable=True),
            "high": column(pl.Float64, "Upper end of its 95 % interval", nullable=True),
            "n": count("Completions that it is computed from"),
        },
        file="steering_evals/<size>/steering_scores.parquet",
        key=("size", "target_feature", "control", "mode", "factor", "half", "metric"),
    ),
    table(
        "steering_features",
        "One steered feature: factor chosen on one half of the prompts, everything here reported on the other half.",
        {
            "size": size(),
            "feature": feature(),
            "selected_by": column(pl.String, "How the feature was drawn before steering", one_of(SELECTIONS)),
            "output_score": column(pl.Float64, "Logit-output score", nullable=True),
            "concept_terms": column(pl.List(pl.String), "Words that stand for the feature, from training contexts only"),
            "density": share("Share of training tokens on which the feature is active"),
            "best_factor": column(pl.Float64, "Factor chosen on the choosing half", nullable=True),
            "sweet_low": column(pl.Float64, "Smallest factor that works and stays fluent", nullable=True),
            "sweet_high": column(pl.Float64, "Largest factor that works and stays fluent", nullable=True),
            "concept_rate": share("Smoothed concept rate: (hits + 0.5) / (n + 1)", nullable=True),
            "control_rate": share("The same of the random-feature control", nullable=True),
            "ratio": column(pl.Float64, "concept_rate / control_rate", nullable=True),
            "difference": column(pl.Float64, "concept_rate - control_rate", nullable=True),
            "low": column(pl.Float64, "Lower end of the difference's 95 % bootstrap interval", nullable=True),
            "high": column(pl.Float64, "Upper end of the difference's 95 % bootstrap interval", nullable=True),
            "n": count("Completions per arm"),
            "passes": column(pl.Boolean, "Rate >= 3 x control, >= 10 points above it, interval excludes 0, n >= 40"),
        },
        file="steering_evals/<size>/steering_features.parquet", key=("size", "feature"),
    ),
)  # fmt: skip
