"""What the proxy's scores come to, for the metadata: means by arm, and the distance from shuffled explanations."""

from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.resampling import paired_difference

_SUFFIXES = (("", "mean"), ("_low", "low"), ("_high", "high"), ("_n_features", "n_features"))


def summary(table: pl.DataFrame, seed: int) -> dict[str, Any]:
    """Means by arm and kind, and matched minus shuffled per interval and overall, with 95 % bootstrap intervals by feature."""
    even = table.filter(pl.col("kind") != "close_look")  # every feature alike
    ok = even.filter(pl.col("status") == "ok")
    own = even.filter(pl.col("control") == "none")
    metadata: dict[str, Any] = {
        "method": "proxy (no language model)",
        "n_features_scored": own.filter(pl.col("status") == "ok")["unit_id"].n_unique(),
        "n_features_attempted": own["unit_id"].n_unique(),
        "n_windows_scored": ok["example_id"].n_unique(),
    }
    active = ok.filter(pl.col("kind") == "active")
    pairs = active.filter(pl.col("control") == "none").join(
        active.filter(pl.col("control") == "shuffled").select("example_id", shuffled="score"), on="example_id"
    )
    if pairs.height:
        overall = _difference(pairs, seed)
        metadata |= {f"matched_minus_shuffled{suffix}": overall[key] for suffix, key in _SUFFIXES}
        metadata["matched_minus_shuffled_by_interval"] = [
            {"interval": interval, **_difference(pairs.filter(pl.col("interval") == interval), seed)}
            for interval in sorted(pairs["interval"].unique())
        ]
    arms = table.group_by("control", "kind").agg(pl.col("score").mean(), n_scored=pl.col("score").count(), n_attempted=pl.len())
    arms = arms.sort("control", "kind")
    scored = arms.filter(pl.col("n_scored") > 0)
    metadata |= {f"mean_{row['control']}_{row['kind']}": row["score"] for row in scored.iter_rows(named=True)}
    # A mean without its denominator cannot be judged.
    metadata["windows_by_arm"] = arms.drop("score").to_dicts()
    metadata["n_by_score"] = {str(score): n for score, n in ok.group_by("score").len().sort("score").iter_rows()}
    metadata["single_token_share_of_level_3"] = _single_token_share(active)
    return metadata


def _difference(pairs: pl.DataFrame, seed: int) -> dict[str, Any]:
    matched, shuffled, unit = (pairs[name].to_numpy() for name in ("score", "shuffled", "unit_id"))
    mean, low, high, n_features = paired_difference(matched, shuffled, unit, seed)
    return {"mean": mean, "low": low, "high": high, "n_features": n_features, "n_windows": pairs.height}


def _single_token_share(active: pl.DataFrame) -> float:
    """Of the active windows that the full explanation gives a 3, the share that the top-1-token baseline gives a 3 as well."""
    pairs = active.filter(pl.col("control") == "none").join(
        active.filter(pl.col("control") == "baseline").select("example_id", baseline="score"), on="example_id"
    )
    three = pairs.filter(pl.col("score") == 3)
    return float(np.mean(three["baseline"].to_numpy() == 3)) if three.height else 0.0
