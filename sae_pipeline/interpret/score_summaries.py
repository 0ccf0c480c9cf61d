"""Explainer x scorer x control in one row each: means over units with bootstrap intervals, and the distance from shuffled.

Units are resampled, not windows: what is scored of one unit is not independent. Scored and attempted stand in every row.
"""

from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.resampling import bootstrap_mean
from sae_pipeline.tables.schemas import conform, empty

KEY = ("size", "method", "scorer", "metric", "control")


def summarize(scores: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Table `explanation_score_summaries` of rows of `explanation_scores`."""
    rows: list[dict[str, Any]] = []
    shuffled = {
        key: dict(mine.filter(pl.col("value").is_not_null()).select("unit_id", "value").iter_rows())
        for key, mine in scores.filter(pl.col("control") == "shuffled").partition_by(
            "size", "method", "scorer", "metric", as_dict=True
        ).items()
    }  # fmt: skip
    for key, mine in sorted(scores.partition_by(*KEY, as_dict=True).items(), key=lambda item: tuple(map(str, item[0]))):
        known = mine.filter(pl.col("value").is_not_null()).sort("unit_id")
        value = known["value"].to_numpy()
        row: dict[str, Any] = dict(zip(KEY, key, strict=True)) | {
            "plumbing": bool(mine["plumbing"].any()), "n_attempted": mine.height, "n_scored": known.height,
            "median": float(np.median(value)) if len(value) else None, "n_paired": 0,
        }  # fmt: skip
        row |= dict(zip(("mean", "low", "high"), bootstrap_mean(value, seed), strict=True))
        pairs = []
        if row["control"] == "none":
            other = shuffled.get(key[:4], {})
            pairs = [(v, other[unit]) for unit, v in known.select("unit_id", "value").iter_rows() if unit in other]
        difference = np.array([own - theirs for own, theirs in pairs])
        names = ("minus_shuffled", "minus_shuffled_low", "minus_shuffled_high")
        row |= {"n_paired": len(pairs)} | dict(zip(names, bootstrap_mean(difference, seed), strict=True))
        rows.append(row)
    schema = empty("explanation_score_summaries").schema
    return conform("explanation_score_summaries", pl.DataFrame(rows, schema=schema))
