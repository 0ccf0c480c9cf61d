"""Histograms: how often features fire, and how large activations are."""

import numpy as np
import polars as pl

from sae_pipeline.plots.figure import LIGHT, Theme, legend, new_figure, size_colors, to_png


def density_histogram(features: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: distribution of log10 density over features, one line per size; features that never fire are counted in the legend.

    `features`: rows of `features` (columns `density`, `alive`, and `size` where several sizes are shown).
    """
    if "size" not in features.columns:
        features = features.with_columns(pl.lit(features.height).alias("size"))
    sizes = features["size"].unique().sort().to_list()
    colors = size_colors(sizes, theme)
    fired = features.filter(pl.col("density") > 0)["density"].log10().to_numpy()
    low, high = (float(np.floor(fired.min())), float(np.ceil(fired.max()))) if len(fired) else (-5.0, 0.0)
    edges = np.linspace(low, max(high, low + 1), 41)
    figure, axes = new_figure(theme, height=2.8)
    axis = axes[0][0]
    for size in sizes:
        rows = features.filter(pl.col("size") == size)
        values = rows.filter(pl.col("density") > 0)["density"].log10().to_numpy()
        counts, _ = np.histogram(values, edges)
        dead = 1 - rows["alive"].mean() if rows.height else 0.0  # pyright: ignore[reportOperatorIssue]
        label = f"{size:,} features, {dead:.1%} dead"
        axis.stairs(counts / max(rows.height, 1), edges, color=colors[size], linewidth=1.6, label=label)
    axis.set_xlabel("density: share of tokens on which the feature is active (log10)")
    axis.set_ylabel("share of features")
    if sizes:
        legend(axis, theme, loc="upper right")
    return to_png(figure)


def norm_histogram(norm_N: np.ndarray, masked_N: np.ndarray, threshold: float, theme: Theme = LIGHT) -> bytes:
    """PNG: activation norms of all tokens (log scale), kept against masked, with the threshold that masks the massive ones.

    `norm_N`: norms; `masked_N`: bool, True where the token is masked for any reason.
    """
    positive = norm_N > 0
    logs, masked = np.log10(norm_N[positive]), masked_N[positive]
    edges = np.linspace(logs.min() - 0.05, logs.max() + 0.05, 61) if len(logs) else np.linspace(0, 1, 61)
    figure, axes = new_figure(theme, height=2.6)
    axis = axes[0][0]
    shares = (("kept", ~masked, theme.second), ("masked", masked, theme.main))
    for label, chosen, color in shares:
        counts, _ = np.histogram(logs[chosen], edges)
        axis.stairs(
            counts, edges, fill=True, alpha=0.75, color=color, label=f"{label}: {chosen.mean() if len(masked) else 0:.2%}"
        )
    axis.axvline(np.log10(threshold), color=theme.foreground, linewidth=1, linestyle="--", label=f"threshold {threshold:,.0f}")
    axis.set_yscale("symlog", linthresh=1)
    axis.set_xlabel("norm of the activation (log10)")
    axis.set_ylabel("tokens")
    legend(axis, theme, loc="upper right")
    return to_png(figure)
