"""Figures of the scaling laws, as in the paper: loss and optima against compute, learning rates, and equal L0."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from sae_pipeline.plots.figure import THEMES, Theme, legend, new_figure, set_title, size_colors, to_png

if TYPE_CHECKING:
    from sae_pipeline.survey.scaling.fits import PowerLaw
    from sae_pipeline.survey.scaling.laws import Laws


def draw_scaling(runs: pl.DataFrame, laws: "Laws") -> dict[str, bytes]:
    """`scaling_laws.*.png` and `scaling_rates.*.png` from the table `scaling_runs` and the fitted laws."""
    drawn = {}
    for theme in THEMES:
        figure, axes = new_figure(theme, 1, 3, width=11, height=3.2)
        _frontier(axes[0][0], runs.filter(experiment="grid"), laws, theme)
        for axis, name, title in (
            (axes[0][1], "optimal_features", "optimal features"), (axes[0][2], "optimal_steps", "optimal steps"),
        ):  # fmt: skip
            _law(axis, *laws.points[name], getattr(laws, name), theme)
            set_title(axis, f"{title}, exponent {getattr(laws, name).exponent:.2f}", theme)
        drawn[f"scaling_laws.{theme.name}.png"] = to_png(figure)

        figure, axes = new_figure(theme, 1, 3, width=11, height=3.2)
        _rates(axes[0][0], runs.filter(experiment="rate"), theme)
        _law(axes[0][1], *laws.points["optimal_learning_rate"], laws.optimal_learning_rate, theme)
        set_title(axes[0][1], f"optimal learning rate, exponent {laws.optimal_learning_rate.exponent:.2f}", theme)
        _equal_l0(axes[0][2], runs.filter(experiment="equal_l0"), theme)
        drawn[f"scaling_rates.{theme.name}.png"] = to_png(figure)
    return drawn


def _frontier(axis: Axes, runs: pl.DataFrame, laws: "Laws", theme: Theme) -> None:
    colors = size_colors(runs["n_features"].unique().to_list(), theme)
    for (size,), rows in runs.sort("n_features", "flops").group_by("n_features", maintain_order=True):
        axis.plot(rows["flops"], rows["loss"], marker="o", markersize=3, color=colors[int(size)], label=f"{size:,}")  # pyright: ignore[reportArgumentType]
    x, _ = laws.points["loss"]
    axis.plot(x, [laws.loss.at(each) for each in x], linestyle="--", color=theme.main, label="law")
    _logarithmic(axis, theme)
    set_title(axis, f"held-out loss, exponent {laws.loss.exponent:.3f}", theme)
    legend(axis, theme, loc="best", title="features")


def _law(axis: Axes, x: np.ndarray, y: np.ndarray, law: "PowerLaw", theme: Theme) -> None:
    if not len(x):  # a logarithmic axis needs something to span
        axis.text(0.5, 0.5, "no optimum inside", ha="center", va="center", color=theme.muted, transform=axis.transAxes)
        return
    axis.plot(x, y, marker="o", linestyle="", color=theme.second)
    if np.isfinite(law.exponent):
        axis.plot(x, [law.at(each) for each in x], linestyle="--", color=theme.main)
    _logarithmic(axis, theme)


def _rates(axis: Axes, runs: pl.DataFrame, theme: Theme) -> None:
    budgets = sorted(runs["flops"].unique().to_list())
    colors = size_colors([int(flops) for flops in budgets], theme)
    for flops in budgets:
        rows = runs.filter(pl.col("flops") == flops).sort("learning_rate")
        axis.plot(rows["learning_rate"], rows["loss"], marker="o", markersize=3, color=colors[int(flops)], label=f"{flops:.1e}")
    _logarithmic(axis, theme)
    axis.set_xlabel("learning rate")
    set_title(axis, "held-out loss by learning rate", theme)
    legend(axis, theme, loc="best", title="FLOPs")


def _equal_l0(axis: Axes, runs: pl.DataFrame, theme: Theme) -> None:
    for architecture, color in (("batch_topk", theme.main), ("relu_l1", theme.second)):
        rows = runs.filter(architecture=architecture).sort("l0")
        axis.plot(rows["l0"], rows["explained_variance"], marker="o", markersize=4, color=color, label=architecture)
    axis.set_xlabel("L0 (active features per token)")
    set_title(axis, "explained variance at equal L0", theme)
    legend(axis, theme, loc="best")


def _logarithmic(axis: Axes, theme: Theme) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("compute (FLOPs)")
    axis.tick_params(which="both", colors=theme.muted, labelsize=7)
