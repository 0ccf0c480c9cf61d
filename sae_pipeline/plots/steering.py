"""Steering dose curves: what a clamp does to the concept and to fluency, beside the same dose of a control."""

import polars as pl

from sae_pipeline.plots.figure import LIGHT, Theme, legend, new_figure, set_title, to_png

ARMS = (  # (control, label)
    ("none", "the feature"),
    ("random_feature", "random feature"),
    ("random_direction", "random direction"),
    ("prompt_only", "asked in the prompt"),
    ("baseline", "unsteered"),
)


def dose_curve(scores: pl.DataFrame, mode: str = "clamp", theme: Theme = LIGHT) -> bytes:
    """PNG: concept rate and share of fluent texts against the clamp factor, averaged over the features in `scores`.

    `scores`: rows of `steering_scores` of one size (or one feature). Only the reporting half is drawn: the other half chose the
    factor. Arms without a factor (`baseline`, `prompt_only`) are horizontal lines.
    """
    report = scores.filter(pl.col("half") == "report")
    figure, axes = new_figure(theme, 1, 2, width=7.2, height=2.8)
    for axis, metric, title in ((axes[0][0], "concept_rate", "concept rate"), (axes[0][1], "fluency", "fluent texts")):
        rows = report.filter(pl.col("metric") == metric)
        for at, (control, label) in enumerate(ARMS):
            color = theme.main if control == "none" else theme.controls[(at - 1) % len(theme.controls)]
            style = "-" if control == "none" else "--"
            curve = _mean_by_factor(rows.filter((pl.col("control") == control) & pl.col("mode").is_in([mode, "none"])))
            if curve.is_empty():
                continue
            if curve["factor"].n_unique() == 1 and control in ("baseline", "prompt_only"):
                axis.axhline(curve["value"][0], color=color, linestyle=":", linewidth=1.3, label=label)
                continue
            x, y = curve["factor"].to_numpy(), curve["value"].to_numpy()
            axis.plot(x, y, style, marker="o", markersize=3.5, linewidth=1.6, color=color, label=label)
            if control == "none":
                _spread(axis, rows.filter((pl.col("control") == "none") & (pl.col("mode") == mode)), color)
        set_title(axis, title, theme)
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("factor (multiples of the training maximum)")
    if axes[0][0].get_legend_handles_labels()[0]:
        legend(axes[0][0], theme, loc="best")
    return to_png(figure)


def _mean_by_factor(rows: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.filter(pl.col("value").is_not_null())
        .with_columns(pl.col("factor").fill_null(0.0))
        .group_by("factor")
        .agg(pl.col("value").mean())
        .sort("factor")
    )


def _spread(axis, rows: pl.DataFrame, color: str) -> None:
    """One feature: its interval. Several: each one's own curve, thin; an average of intervals would be no interval."""
    rows = rows.filter(pl.col("value").is_not_null()).sort("factor")
    features = rows["target_feature"].unique().to_list()
    for feature in features:
        curve = rows.filter(pl.col("target_feature") == feature)
        x = curve["factor"].to_numpy()
        if len(features) > 1:
            axis.plot(x, curve["value"].to_numpy(), color=color, linewidth=0.7, alpha=0.35)
        elif curve["low"].null_count() == 0 and curve["high"].null_count() == 0:
            axis.fill_between(x, curve["low"].to_numpy(), curve["high"].to_numpy(), color=color, alpha=0.15, linewidth=0)
