"""The arms of the specificity scores, and their rows in the table `specificity_scores`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sae_pipeline.interpret.protocols import Control, Explanation, Score
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import Example


@dataclass(frozen=True)
class Arm:
    """Explanations to score on the windows of some columns; `explanations[i]` belongs to `columns[i]`."""

    control: Control
    units: Units
    columns: list[int]
    explanations: list[Explanation]


def specificity_rows(
    size: int, arm: Arm, column: int, examples: Sequence[Example], scores: Sequence[Score], first_id: int, method: str,
    model: str | None = None, plumbing: bool = False,
) -> pl.DataFrame:  # fmt: skip
    """Rows of one column's windows; `first_id` is the example id of the first one."""
    n, unit_id = len(examples), int(arm.units.ids[column])
    return pl.DataFrame(
        {
            "size": [size] * n,
            "unit": [arm.units.unit] * n,
            "unit_id": [unit_id] * n,
            "feature": [unit_id if arm.units.unit == "sae_feature" else None] * n,
            "example_id": range(first_id, first_id + n),
            "kind": [example.kind for example in examples],
            "interval": [example.interval for example in examples],
            "activation": [example.activation for example in examples],
            "token_index": [example.token_index for example in examples],
            "control": [arm.control] * n,
            "method": [method] * n,
            "model": [model] * n,
            "score": [each.value for each in scores],
            "status": [each.status for each in scores],
            "evidence": [each.evidence for each in scores],
            "cost_usd": [each.cost_usd for each in scores],
            "plumbing": [plumbing] * n,
        },
        schema=_TYPES,
    )


_TYPES: dict[str, Any] = {
    "size": pl.Int32, "unit": pl.String, "unit_id": pl.Int32, "feature": pl.Int32, "example_id": pl.Int64, "kind": pl.String,
    "interval": pl.Int8, "activation": pl.Float32, "token_index": pl.Int64, "control": pl.String, "method": pl.String,
    "model": pl.String, "score": pl.Int8, "status": pl.String, "evidence": pl.String, "cost_usd": pl.Float64,
    "plumbing": pl.Boolean,
}  # fmt: skip
