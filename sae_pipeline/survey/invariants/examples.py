"""Checklist row 17: every stored sample lies inside its activation interval, for every live feature."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.tables.columns import N_INTERVALS


def samples_inside_their_interval(feature_stats: Mapping[int, Path], seed: int) -> Measurement:
    """Share of interval samples with (i - 1) M < 10 a <= i M, M the training maximum; above M only in the top interval.

    The products are exact in float64, so there is no tolerance. Features that are alive and have no sample count as outside.
    """
    inside, attempted, shuffled, n_features, missing = 0, 0, 0, 0, 0
    for folder in feature_stats.values():
        features = pl.read_parquet(folder / "features.parquet", columns=["feature", "alive", "max_activation"])
        samples = (
            pl.scan_parquet(folder / "feature_examples.parquet")
            .filter(pl.col("kind") == "interval")
            .select("feature", "interval", "split", pl.col("activation").cast(pl.Float64))
            .collect()
            .join(features, on="feature")
            .filter("alive")
        )
        without = features.filter("alive").join(samples, on="feature", how="anti").height
        interval = samples["interval"].to_numpy().astype(np.float64)
        inside += int(_inside(samples, interval).sum())
        # The same labels, dealt out anew among all samples.
        shuffled += int(_inside(samples, np.random.default_rng(seed).permutation(interval)).sum())
        attempted, missing = attempted + samples.height + without, missing + without
        n_features += features.filter("alive").height
    return Measurement(
        "samples_inside_their_interval", "share of stored interval samples inside their interval, every live feature",
        inside / attempted if attempted else None, attempted - missing, attempted, control="interval labels shuffled",
        control_value=shuffled / attempted if attempted else None,
        **({} if attempted else too_few("stored interval samples of live features", 0, 1)),
        why=f"all samples of {n_features:,} live features of {len(feature_stats)} sizes: a count, so without an interval",
        rows="feature_examples",
    )  # fmt: skip


def _inside(samples: pl.DataFrame, interval: np.ndarray) -> np.ndarray:
    activation, maximum = samples["activation"].to_numpy(), samples["max_activation"].to_numpy()
    below_top = N_INTERVALS * activation <= interval * maximum
    beyond = (interval == N_INTERVALS) & (samples["split"] == "held_out").to_numpy()  # held-out values may exceed M
    return (activation > 0) & ((interval - 1) * maximum < N_INTERVALS * activation) & (below_top | beyond)
