"""Checklist row 23: dropping weak activations makes features more specific, at a small cost in reconstruction.

The threshold is a share t of each feature's training maximum, the same t for all: the largest whose squared error on *train*
tokens rises by at most 5 %. What it does is then read from held-out windows whose specificity is known.

Shapes: N tokens, F features, D width.
"""

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sae_pipeline.resampling import bootstrap
from sae_pipeline.sae.autoencoder import SparseAutoencoder, SparseCodes
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds

SHARES = np.round(np.arange(0.01, 0.51, 0.01), 2)
FIGURE = "activation_thresholds"
N_DRAWS = 200  # of the control: what is dropped at random is worth nothing on average, and a single draw is mostly noise


def error_rise(sae: SparseAutoencoder, codes: SparseCodes, r_ND: Tensor, maximum_F: Tensor, share: float) -> float:
    """Relative rise of the mean squared error when activations below `share` of their feature's maximum are dropped."""
    keep_P = codes.value >= share * maximum_F[codes.feature.long()]
    counts_N = torch.zeros(len(r_ND), dtype=torch.int64).index_add_(0, codes.token, keep_P.long())
    offsets = torch.cat([counts_N.new_zeros(1), counts_N.cumsum(0)])
    kept = SparseCodes(offsets, codes.feature[keep_P], codes.value[keep_P], codes.frame)
    before, after = ((sae.decode_sparse(each) - r_ND.float()).double().square().sum() for each in (codes, kept))
    return float(after / before - 1)


def largest_share(sae: SparseAutoencoder, r_ND: Tensor, maximum_F: Tensor) -> float:
    """The largest threshold of the grid that keeps to the bound on these tokens; 0 when none does."""
    codes, best = sae.encode_sparse(r_ND), 0.0
    for share in SHARES.tolist():
        if error_rise(sae, codes, r_ND, maximum_F, share) > thresholds().max_error_rise:
            break
        best = share
    return best


def weighted_windows(scores: pl.DataFrame, intervals: pl.DataFrame, maximum_F: Tensor) -> pl.DataFrame:
    """Scored windows (feature, activation, score) with the feature's `maximum` and their `weight`.

    `scores`: active held-out windows (feature, interval, activation, score), drawn uniformly inside intervals; `intervals`: how
    many held-out activations each interval has. A window stands for that many of them.
    """
    maximum = pl.DataFrame({"feature": np.arange(len(maximum_F)), "maximum": maximum_F.numpy()})
    return (
        scores.join(intervals.select("feature", "interval", "n"), on=["feature", "interval"])
        .join(maximum.cast({"feature": scores.schema["feature"]}), on="feature")
        .with_columns(weight=pl.col("n") / pl.len().over("feature", "interval"))
        .sort("feature", "activation")
    )


def specificity_gain(windows: pl.DataFrame, share: float, rise: float, size: int, seed: int) -> Measurement:
    """Mean specificity of a feature's activations with the threshold, minus without it.

    The control drops as many at random, mean over draws. `windows`: of `weighted_windows`; `rise`: of the held-out error.
    """
    n_attempted = windows["feature"].n_unique()
    windows = windows.with_columns(kept=pl.col("activation") >= share * pl.col("maximum"))
    random = np.random.default_rng(seed)
    gains, controls = [], []
    for _, mine in windows.group_by("feature", maintain_order=True):
        weight, score, kept = (mine[name].to_numpy() for name in ("weight", "score", "kept"))
        if not kept.any():
            continue
        all_of_it = float((weight * score).sum() / weight.sum())
        gains.append(float((weight * score)[kept].sum() / weight[kept].sum()) - all_of_it)
        stays = [~_as_much_at_random(weight, float(weight[~kept].sum()), random) for _ in range(N_DRAWS)]
        controls.append(float(np.mean([(weight * score)[stay].sum() / weight[stay].sum() for stay in stays])) - all_of_it)
    gain, control = np.array(gains), np.array(controls)
    metric = f"gain in mean specificity (0-3) when activations below {share:.0%} of the maximum are dropped"
    if not len(gain):
        return Measurement(
            "specificity_gain_at_5_percent_error", metric, None, 0, n_attempted, size,
            **too_few("features with scored windows above the threshold", 0, 1),
        )  # fmt: skip
    low, high = bootstrap(lambda drawn: float(gain[drawn].mean()), len(gain), seed)
    difference = bootstrap(lambda drawn: float((gain - control)[drawn].mean()), len(gain), seed)
    return Measurement(
        "specificity_gain_at_5_percent_error", metric, float(gain.mean()), len(gain), n_attempted, size, low=low, high=high,
        control=f"as many activations dropped at random (mean of {N_DRAWS} draws)", control_value=float(control.mean()),
        difference_low=difference[0], difference_high=difference[1], rows="activation_thresholds",
        figure=FIGURE, why=f"threshold chosen on train tokens; on held-out tokens the squared error rises by {rise:.1%}",
    )  # fmt: skip


def _as_much_at_random(weight: np.ndarray, dropped_weight: float, random: np.random.Generator) -> np.ndarray:
    """Windows in random order until as much weight is dropped as the threshold drops; one window at least stays."""
    order = random.permutation(len(weight))
    before = np.cumsum(weight[order]) - weight[order]
    dropped = np.zeros(len(weight), bool)
    dropped[order[(before + weight[order] / 2 <= dropped_weight)]] = True
    dropped[order[-1]] = False
    return dropped
