"""Training curves."""

import polars as pl
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sae_pipeline.plots.figure import LIGHT, Theme, legend, new_figure, set_title, size_colors, to_png

N_POINTS = 100  # per curve; more is noise at this width

PANELS = (
    ("explained_variance_batch", "explained variance (batch)", False),
    ("l0", "L0 (active features per token)", False),
    ("mse", "squared error", True),
    ("dead_fraction", "dead features", False),
)


def training_curves(history: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG of the four curves that tell whether a training run is healthy, against tokens seen.

    `history`: rows of `training_history` (one run, or several told apart by the column `size`).
    """
    figure, axes = new_figure(theme, 2, 2, height=4.0)
    flat = [axis for row in axes for axis in row]
    sizes = history["size"].unique().sort().to_list() if "size" in history.columns else []
    colors = size_colors(sizes, theme)
    runs = [(f"{size:,} features", history.filter(pl.col("size") == size), colors[size]) for size in sizes]
    for label, run, color in runs or [("", history, theme.main)]:
        run = _means(run.sort("step"))
        for axis, (column, _, _) in zip(flat, PANELS, strict=True):
            axis.plot(run["n_tokens"].to_numpy(), run[column].to_numpy(), color=color, linewidth=1.4, label=label)
    for axis, (_, title, logarithmic) in zip(flat, PANELS, strict=True):
        set_title(axis, title, theme)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(FuncFormatter(_short))
        if logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(_short))
            axis.yaxis.set_minor_locator(NullLocator())
    for axis in axes[1]:
        axis.set_xlabel("training tokens")
    if sizes:
        legend(flat[0], theme, loc="lower right")
    return to_png(figure)


def _means(run: pl.DataFrame) -> pl.DataFrame:
    """Means over at most N_POINTS stretches of equally many steps (to one), so that noise does not hide the curve."""
    n_points = min(N_POINTS, run.height)
    stretch = (pl.int_range(pl.len()) * n_points // pl.len()).alias("stretch")
    return run.with_columns(stretch).group_by("stretch", maintain_order=True).mean().drop("stretch")


def _short(value: float, _position: int | None = None) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"
