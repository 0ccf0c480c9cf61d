"""Explanations and their scores as rows of the tables `explanations` and `explanation_scores`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.interpret.explanation_scores import MetricRow
from sae_pipeline.interpret.protocols import ARM_OF_UNIT, Explanation
from sae_pipeline.interpret.units import Units


def explanation_table(size: int, explanations: Sequence[Explanation]) -> pl.DataFrame:
    """Rows of `explanations`."""
    rows = [
        {
            "size": size, "unit": each.unit, "unit_id": each.unit_id,
            "feature": each.unit_id if each.unit == "sae_feature" else None,
            "control": ARM_OF_UNIT[each.unit], "method": each.method, "model": each.model, "text": each.text, "kind": each.kind,
            "rule": each.rule, "status": each.status, "prompt_sha": each.prompt_sha, "n_examples": each.n_examples,
            "cost_usd": each.cost_usd, "confidence": each.confidence, "plumbing": each.plumbing,
        }
        for each in explanations
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=_TYPES)


_TYPES: dict[str, Any] = {
    "size": pl.Int32, "unit": pl.String, "unit_id": pl.Int32, "feature": pl.Int32, "control": pl.String, "method": pl.String,
    "model": pl.String, "text": pl.String, "kind": pl.String, "rule": pl.String, "status": pl.String, "prompt_sha": pl.String,
    "n_examples": pl.Int64, "cost_usd": pl.Float64, "confidence": pl.String, "plumbing": pl.Boolean,
}  # fmt: skip


def score_table(size: int, units: Units, method: str, rows: Iterable[MetricRow]) -> pl.DataFrame:
    """Rows of `explanation_scores`; `method` is the explainer's."""
    rows = list(rows)
    unit_id = units.ids[[row.column for row in rows]] if rows else np.empty(0, np.int64)
    return pl.DataFrame(
        {
            "size": pl.Series([size] * len(rows), dtype=pl.Int32), "unit": [units.unit] * len(rows), "unit_id": unit_id,
            "feature": pl.Series(unit_id if units.unit == "sae_feature" else [None] * len(rows), dtype=pl.Int32),
            "method": [method] * len(rows), "metric": [row.metric for row in rows], "control": [row.control for row in rows],
            "value": pl.Series([row.value for row in rows], dtype=pl.Float64), "n": [row.n for row in rows],
            "status": [row.status for row in rows], "scorer": [row.scorer for row in rows],
            "plumbing": [row.plumbing for row in rows],
        },
        schema_overrides={"unit": pl.String, "unit_id": pl.Int32, "method": pl.String, "metric": pl.String,
                          "control": pl.String, "n": pl.Int64, "status": pl.String, "scorer": pl.String, "plumbing": pl.Boolean},
    )  # fmt: skip
