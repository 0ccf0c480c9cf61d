"""Specificity against error as weak activations are left out: what a threshold buys, and what it costs, at many thresholds.

One threshold alone, that of row 23, hides where more would be gained or lost. Shapes: N tokens, F features, D width.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from torch import Tensor

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.survey.features_vs_neurons.thresholding import SHARES, error_rise
from sae_pipeline.tables.schemas import conform

# Fine where thresholds are chosen, coarse where the error is already large: each costs a reconstruction.
CURVE = (0.0, *SHARES[[3, 5, 7, 9, 14, 19, 29, 39, 49]].tolist())


def threshold_curve(
    sae: SparseAutoencoder, r_ND: Tensor, maximum_F: Tensor, windows: pl.DataFrame, chosen: float, size: int,
    shares: Sequence[float] = CURVE,
) -> pl.DataFrame:  # fmt: skip
    """Table `activation_thresholds`: one row per share of the maximum, `chosen` among them. `windows`: of `weighted_windows`."""
    codes, r_ND = sae.encode_sparse(r_ND), r_ND.float()
    error = (sae.decode_sparse(codes) - r_ND).double().square().sum()
    variation = (r_ND - r_ND.mean(0)).double().square().sum()
    rows = []
    for share in sorted({*shares, chosen}):
        rise = error_rise(sae, codes, r_ND, maximum_F, share)
        specificity, gain, n = specificity_above(windows, share)
        rows.append({
            "size": size, "share": share, "is_chosen": share == chosen, "error_rise": rise,
            "explained_variance": 1 - (1 + rise) * float(error / variation), "specificity": specificity,
            "specificity_gain": gain, "n_features": n, "n_tokens": len(r_ND),
        })  # fmt: skip
    return conform("activation_thresholds", pl.DataFrame(rows, schema_overrides=TYPES))


TYPES = {"specificity": pl.Float64, "specificity_gain": pl.Float64}


def specificity_above(windows: pl.DataFrame, share: float) -> tuple[float | None, float | None, int]:
    """(mean over features of their specificity above the threshold, that minus the same features' without one, features).

    Features without a window above the threshold are left out of both means.
    """
    kept, weight, score = pl.col("activation") >= share * pl.col("maximum"), pl.col("weight"), pl.col("score")
    by_feature = (
        windows.group_by("feature")
        .agg(
            above=(weight * score).filter(kept).sum() / weight.filter(kept).sum(),
            every=(weight * score).sum() / weight.sum(),
            n_kept=kept.sum(),
        )
        .filter(pl.col("n_kept") > 0)
        .sort("feature")
    )
    if not by_feature.height:
        return None, None, 0
    above, every = (by_feature[name].to_numpy() for name in ("above", "every"))
    return float(above.mean()), float(np.mean(above - every)), by_feature.height
