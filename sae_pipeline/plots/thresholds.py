"""What leaving out weak activations gains in specificity, against what it costs in reconstruction."""

import polars as pl

from sae_pipeline.plots.figure import Theme, new_figure, set_title, to_png


def activation_thresholds(rows: pl.DataFrame, theme: Theme) -> bytes:
    """PNG: gain in specificity by rise of the squared error, and both by threshold. `rows`: table `activation_thresholds`."""
    figure, axes = new_figure(theme, 1, 3, width=9.0, height=2.8)
    panels = (
        ("error_rise", "specificity_gain", "gained against lost"), ("share", "specificity_gain", "gained"),
        ("share", "error_rise", "lost"),
    )  # fmt: skip
    labels = {
        "error_rise": "rise of the squared error", "share": "threshold, share of the maximum",
        "specificity_gain": "gain in specificity (0 to 3)",
    }  # fmt: skip
    ordered = rows.sort("share")
    for axis, (x, y, title) in zip(axes[0], panels, strict=True):
        axis.plot(ordered[x], ordered[y], color=theme.main, linewidth=1.2, marker="o", markersize=2.5)
        chosen = ordered.filter("is_chosen")
        axis.plot(chosen[x], chosen[y], linestyle="", marker="o", markersize=6, color=theme.second)
        axis.set_xlabel(labels[x])
        axis.set_ylabel(labels[y])
        set_title(axis, title, theme)
    return to_png(figure)
