"""Checklist row 17: within its interval every activation is equally likely to become a stored sample.

A sample's rank among all activations of its feature, interval and split is uniform then, whatever the activations are. Ties share
their places at random, so that the ranks are uniform on [0, 1] exactly. Pooled over features, they are held against that by the
Kolmogorov-Smirnov distance, in units of the distance that chance exceeds once in a thousand times (1.95 / sqrt(n)). Drawing
without repeats only brings ranks closer to it. Shapes: U chosen features, E samples, N activations of a feature.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import kstest

from sae_pipeline.features.intervals import interval_of
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds
from sae_pipeline.tables.columns import N_INTERVALS, SPLITS

N_FEATURES = 1000  # live ones of each size, drawn at random


def sample_rank_distance(feature_stats: Mapping[int, Path], seed: int) -> Measurement:
    """Intervals with few activations are left out: where nearly all are stored, nothing is drawn."""
    random = np.random.default_rng([seed, 17])
    found, n_attempted = [], 0
    for folder in feature_stats.values():
        features = pl.read_parquet(folder / "features.parquet", columns=["feature", "alive", "max_activation"]).filter("alive")
        some = np.sort(random.permutation(features.height)[:N_FEATURES])
        samples = (
            pl.scan_parquet(folder / "feature_examples.parquet")
            .filter(pl.col("kind") == "interval")
            .select("feature", "interval", "split", "activation")
            .collect()
            .join(features[some], on="feature")
        )
        n_attempted += samples.height
        for split in SPLITS:
            sparse = SparseActivations.open(folder / f"activations_{split}.parquet")
            for (feature,), mine in samples.filter(split=split).group_by("feature", maintain_order=True):
                _, value_N = sparse.of(int(str(feature)))
                maximum, interval_E = float(mine["max_activation"][0]), mine["interval"].to_numpy()
                found.append(ranks(value_N, maximum, interval_E, mine["activation"].to_numpy(), random))
    own, top = np.concatenate([*found, np.empty((2, 0))], axis=1)
    few = {} if len(own) else too_few("samples of intervals with enough activations", 0, 1)
    return Measurement(
        "sample_rank_distance",
        "Kolmogorov-Smirnov distance of the samples' ranks within their interval from uniform ones, over that which chance "
        "exceeds once in a thousand",
        distance(own) if len(own) else None, len(own), n_attempted, control="the strongest of the interval instead",
        control_value=distance(top) if len(own) else None, **few,
        why=f"intervals with at least {thresholds().uniform_min_activations} activations; {N_FEATURES:,} features a size at most",
        rows="feature_examples",
    )  # fmt: skip


def distance(rank_E: np.ndarray) -> float:
    """1: as far from uniform as chance brings it once in a thousand times."""
    return float(kstest(rank_E, "uniform").statistic * np.sqrt(len(rank_E)) / thresholds().uniform_ks)


def ranks(
    value_N: np.ndarray, maximum: float, interval_E: np.ndarray, activation_E: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """2 x E of one feature in one split: ranks of its samples within their interval, in [0, 1], and those of as many strongest.

    Samples of intervals with too few activations are left out.
    """
    sorted_N = np.sort(value_N)
    interval_N = interval_of(sorted_N, maximum)
    found = []
    for interval in range(1, N_INTERVALS + 1):
        within_N = sorted_N[np.searchsorted(interval_N, interval) : np.searchsorted(interval_N, interval, "right")]
        sample_E = activation_E[interval_E == interval]
        if not len(sample_E) or len(within_N) < thresholds().uniform_min_activations:
            continue
        below_E, upto_E = (np.searchsorted(within_N, sample_E, side) for side in ("left", "right"))
        strongest_E = len(within_N) - 1 - np.arange(len(sample_E))
        apart_2E = random.random((2, len(sample_E)))
        found.append(np.stack([below_E + apart_2E[0] * (upto_E - below_E), strongest_E + apart_2E[1]]) / len(within_N))
    return np.concatenate([*found, np.empty((2, 0))], axis=1)
