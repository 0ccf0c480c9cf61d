"""Trained SAEs beside what learned nothing: recovery of planted features, explained variance, specificity."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from sae_pipeline.plots.figure import THEMES, Theme, new_figure, set_title, to_png

FIGURE = "null_models"


def draw_null_models(recovered: pl.DataFrame, reconstruction: pl.DataFrame, scores: pl.DataFrame) -> dict[str, bytes]:
    """`null_models.light.png` and `.dark.png` from the stage's three tables: every dot is a seed or a unit, bars are means."""
    shares = recovered.with_columns(rate=pl.col("n_recovered") / pl.col("n_planted"))
    panels = (
        ("planted features recovered", shares, "architecture", "rate"),
        ("explained variance, held out", reconstruction, "arm", "explained_variance"),
        ("specificity (proxy, 0-3)", scores.filter(pl.col("specificity").is_not_null()), "arm", "specificity"),
    )
    drawn = {}
    for theme in THEMES:
        figure, axes = new_figure(theme, 1, 3, width=10, height=3.0)
        for axis, (title, rows, group, value) in zip(axes[0], panels, strict=True):
            _dots(axis, rows, group, value, theme)
            set_title(axis, title, theme)
        drawn[f"{FIGURE}.{theme.name}.png"] = to_png(figure)
    return drawn


def _dots(axis: Axes, rows: pl.DataFrame, group: str, value: str, theme: Theme) -> None:
    names: Sequence[str] = rows.group_by(group).agg(pl.col(value).mean()).sort(value, group)[group].to_list()
    for at, name in enumerate(names):
        values = rows.filter(pl.col(group) == name)[value].to_numpy()
        null = name in ("frozen decoder", "principal components", "random directions", "random model")
        color = theme.controls[0] if null else theme.main
        axis.barh(at, float(values.mean()), height=0.6, color=color, alpha=0.5)
        axis.plot(values, np.full(len(values), at), marker="o", markersize=3, linestyle="", color=color, alpha=0.7)
    axis.set_yticks(range(len(names)), names)
    axis.grid(True, axis="x", color=theme.grid, linewidth=0.8)
    axis.grid(False, axis="y")
