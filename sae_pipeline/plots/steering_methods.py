"""The steering comparison in pictures: its methods beside each other, doses, and what steering does to other concepts.

Shape legend: I concepts steered, J concepts looked for.
"""

import numpy as np
import polars as pl
from matplotlib.colors import LinearSegmentedColormap

from sae_pipeline.plots.figure import LIGHT, Theme, legend, new_figure, set_title, to_png

RATES = (("score", "harmonic mean"), ("hit_rate", "names the concept"), ("fluent_rate", "fluent"), ("relevant_rate", "relevant"))


def methods_figure(report: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: one row per method, best first; a dot per concept, the mean as a bar. `report`: rows of `summary`, reporting half."""
    means = report.group_by("control").agg(pl.col("score").mean()).sort("score", "control", descending=[False, True])
    methods = means["control"].to_list()
    figure, axes = new_figure(theme, 1, len(RATES), width=9.0, height=0.6 + 0.26 * max(4, len(methods)), share_y=True)
    for axis, (column, title) in zip(axes[0], RATES, strict=True):
        for y, method in enumerate(methods):
            values = report.filter(pl.col("control") == method)[column].to_numpy()
            color = theme.main if method.startswith("sae_clamp") else theme.controls[0]
            axis.barh(y, values.mean(), height=0.62, color=color, alpha=0.55)
            axis.plot(values, [y] * len(values), "o", markersize=2.2, color=theme.muted)
        set_title(axis, title, theme)
        axis.set_xlim(0, 1.02)
    axes[0][0].set_yticks(range(len(methods)), [method.replace("_", " ") for method in methods])
    return to_png(figure)


def doses_figure(doses: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: what a clamp says and what it costs at every factor, mean over concepts. `doses`: rows of `steering_doses`."""
    figure, axes = new_figure(theme, 1, 2, width=8.0, height=2.9)
    panels = (("rise", "rise of the probability to say the concept"), ("extra_nats", "extra nats per token of the texts"))
    arms = (("none", "the feature"), ("random_feature", "random feature"), ("random_direction", "random direction"))
    for axis, (column, title) in zip(axes[0], panels, strict=True):
        for at, (control, label) in enumerate(arms):
            means = doses.filter(pl.col("control") == control).group_by("factor").agg(pl.col(column).mean()).sort("factor")
            color = theme.main if control == "none" else theme.controls[at - 1]
            axis.plot(means["factor"], means[column], "-o", markersize=2.6, linewidth=1.4, color=color, label=label)
        axis.set_xscale("symlog", linthresh=2)  # linear where row 32 looks
        ticks = (-100, -10, -2, 0, 2, 10, 100)
        axis.set_xticks(ticks, [str(each) for each in ticks])
        axis.minorticks_off()
        axis.set_xlabel("factor (multiples of the training maximum)")
        set_title(axis, title, theme)
    legend(axes[0][0], theme, loc="upper left")
    return to_png(figure)


def effects_figure(by_method: dict[str, np.ndarray], concepts: list[str], theme: Theme = LIGHT) -> bytes:
    """PNG: a heat map per method, concept steered (row) x looked for (column): change of the share of texts that name it."""
    side = 1.4 + 0.24 * len(concepts)
    figure, axes = new_figure(theme, 1, len(by_method), width=0.9 + side * len(by_method), height=0.6 + side, share_y=True)
    limit = max(1e-6, *(float(np.abs(effect_IJ).max()) for effect_IJ in by_method.values()))
    colors = LinearSegmentedColormap.from_list("effects", [theme.second, theme.background, theme.main])
    shown = None
    for axis, (method, effect_IJ) in zip(axes[0], by_method.items(), strict=True):
        shown = axis.imshow(effect_IJ, cmap=colors, vmin=-limit, vmax=limit)
        axis.grid(False)
        axis.set_xticks(range(len(concepts)), concepts, rotation=90)
        axis.set_yticks(range(len(concepts)), concepts)
        set_title(axis, method.replace("_", " "), theme)
        axis.set_xlabel("concept looked for")
    axes[0][0].set_ylabel("concept steered")
    assert shown is not None
    bar = figure.colorbar(shown, ax=axes[0], shrink=0.7)
    bar.ax.tick_params(colors=theme.muted, labelsize=8)
    bar.outline.set_edgecolor(theme.grid)  # pyright: ignore[reportCallIssue]
    return to_png(figure)
