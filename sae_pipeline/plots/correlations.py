"""How closely features, and random directions, follow their best neuron."""

import numpy as np
import polars as pl

from sae_pipeline.plots.figure import Theme, legend, new_figure, set_title, to_png

BINS = [i / 40 for i in range(41)]


def neuron_correlations(rows: pl.DataFrame, theme: Theme) -> bytes:
    """PNG: histograms of the best |r| with any neuron and with any residual dimension. `rows`: table `neuron_correlations`."""
    figure, axes = new_figure(theme, 1, 2, height=2.8, share_y=True)
    panels = (("r", "best MLP neuron up to the hook"), ("r_dimension", "best residual dimension"))
    for axis, (column, title) in zip(axes[0], panels, strict=True):
        for unit, label, color in (
            ("sae_feature", "features", theme.main),
            ("random_direction", "random directions of equal density", theme.controls[0]),
        ):
            r = np.abs(rows.filter(unit=unit)[column].to_numpy())
            axis.hist(r, BINS, weights=np.full(len(r), 1 / max(len(r), 1)), histtype="step", color=color, label=label)
        axis.axvline(0.3, color=theme.muted, linewidth=0.8, linestyle="--")
        axis.set_xlabel("|r|")
        set_title(axis, title, theme)
    axes[0][0].set_ylabel("share of units")
    legend(axes[0][1], theme, loc="upper right")
    return to_png(figure)
