"""Explainer x scorer x control in one row each: means over units with bootstrap intervals, and the distance from shuffled.

Units are resampled, not windows: what is scored of one unit is not independent. Scored and attempted stand in every row.
"""

from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.tables.schemas import conform, empty

N_RESAMPLES = 1_000
AT_ONCE = 2_000_000  # drawn indices held in memory
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


def bootstrap_mean(value: np.ndarray, seed: int, confidence: float = 0.95) -> tuple[float | None, float | None, float | None]:
    """(mean, low, high) by the percentile bootstrap over the entries; no interval for fewer than two of them."""
    if not len(value):
        return None, None, None
    if len(value) == 1:
        return float(value[0]), None, None
    random = np.random.default_rng([seed, 7])
    step = max(1, AT_ONCE // len(value))
    means = np.concatenate(
        [
            value[random.integers(0, len(value), (min(step, N_RESAMPLES - start), len(value)))].mean(axis=1)
            for start in range(0, N_RESAMPLES, step)
        ]
    )
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(value.mean()), float(low), float(high)
