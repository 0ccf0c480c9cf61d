"""Presence of a feature against frequency of its word, raw and multiplied by the alive features."""

import numpy as np
import polars as pl

from sae_pipeline.plots.figure import Theme, legend, new_figure, set_title, size_colors, to_png
from sae_pipeline.survey.completeness.law import fit_sigmoid, predicted

N_BINS = 7


def concept_presence(rows: pl.DataFrame, alive: dict[int, int], theme: Theme) -> bytes:
    """PNG: shares of words with a feature in bins of equally many words, and the fitted sigmoid. `rows`: `concept_presence`."""
    figure, axes = new_figure(theme, 1, 2, height=2.8, share_y=True)
    colors = size_colors(sorted(alive), theme)
    for axis, rescaled in zip(axes[0], (False, True), strict=True):
        for size in sorted(alive):
            mine = rows.filter(pl.col("size") == size, pl.col("present").is_not_null()).unique("word").sort("frequency", "word")
            if not mine.height:
                continue
            x = np.log10(mine["frequency"].to_numpy() * (alive[size] if rescaled else 1))
            y = mine["present"].to_numpy().astype(float)
            parts = [part for part in np.array_split(np.arange(len(x)), N_BINS) if len(part)]
            axis.plot(
                [x[part].mean() for part in parts], [y[part].mean() for part in parts], "o", markersize=4, color=colors[size],
                label=f"{size:,}",
            )  # fmt: skip
            half, slope = fit_sigmoid(x, y)
            if np.isfinite(half):
                line = np.linspace(x.min(), x.max(), 60)
                axis.plot(line, predicted(line, half, slope), linewidth=1.2, color=colors[size])
        axis.axhline(0.5, color=theme.muted, linewidth=0.8, linestyle="--")
        axis.set_xlabel("log10(frequency x alive features)" if rescaled else "log10(mentions per token)")
        set_title(axis, "rescaled" if rescaled else "by frequency", theme)
    axes[0][0].set_ylabel("share of words with a feature")
    legend(axes[0][0], theme, title=None, loc="upper left")
    return to_png(figure)
