"""The methods of the steering comparison beside each other: concept, fluency, relevance and their harmonic mean."""

import polars as pl

from sae_pipeline.plots.figure import LIGHT, Theme, new_figure, set_title, to_png

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
