"""How the SAE sizes compare: quality against size, and what the token mask changes."""

import polars as pl

from sae_pipeline.plots.figure import LIGHT, Theme, legend, new_figure, set_title, size_axis, to_png

FLOOR = -1.0
COLUMNS = ("explained_variance", "explained_variance_unmasked")


def metrics_by_size(metrics: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: explained variance, L0, CE recovered and living features against SAE size. `metrics`: rows of `sae_metrics`."""
    rows = metrics.sort("size")
    sizes = rows["size"].to_list()
    panels = (
        ("explained variance", (("explained_variance", "held out", theme.main),)),
        ("L0 (active features per token)", (("l0", "held out", theme.main),)),
        (
            "cross-entropy recovered",
            (("ce_recovered_zero", "of zero ablation", theme.main), ("ce_recovered_mean", "of mean ablation", theme.second)),
        ),
        ("alive features", (("alive_fraction", "held out", theme.main),)),
    )
    figure, axes = new_figure(theme, 2, 2, height=4.0)
    for axis, (title, series) in zip([axis for row in axes for axis in row], panels, strict=True):
        for column, label, color in series:
            values = rows[column].to_list()
            axis.plot(sizes, values, marker="o", markersize=5, linewidth=1.4, color=color, label=label)
            for size, value in zip(sizes, values, strict=True):
                if value is not None and len(series) == 1:
                    axis.annotate(
                        f"{value:.3g}", (size, value), xytext=(0, 6), textcoords="offset points",
                        ha="center", fontsize=8, color=theme.foreground,
                    )  # fmt: skip
        set_title(axis, title, theme)
        size_axis(axis, sizes)
        axis.margins(x=0.15, y=0.4)
        axis.ticklabel_format(axis="y", useOffset=False)
        if column == "alive_fraction":
            axis.set_ylim(min(0.9, *(value - 0.05 for value in rows[column].drop_nulls())), 1.03)
        if len(series) > 1:
            legend(axis, theme, loc="best")
    for axis in axes[1]:
        axis.set_xlabel("features in the SAE")
    return to_png(figure)


def masked_and_unmasked(metrics: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: explained variance with and without massive activations, per size.

    Unmasked, a handful of tokens with a hundred times the usual norm carry nearly all variance, and the number means nothing
    (it may be near 1 or far below 0); the figure shows how far apart the two readings are. `metrics`: rows of `sae_metrics`.
    """
    rows = metrics.sort("size")
    places = list(range(rows.height))
    figure, axes = new_figure(theme, width=6.4, height=2.6)
    axis = axes[0][0]
    for offset, column, label, color in (
        (-0.2, "explained_variance", "masked tokens left out (the number we report)", theme.main),
        (0.2, "explained_variance_unmasked", "all tokens (dominated by massive activations)", theme.controls[0]),
    ):
        values = [value if value is not None else float("nan") for value in rows[column].to_list()]
        # Far below zero there is nothing to compare: the bar ends at FLOOR and its label says how far it goes.
        heights = [max(value, FLOOR) for value in values]
        bars = axis.bar([place + offset for place in places], heights, width=0.36, color=color, label=label)
        axis.bar_label(bars, [f"{value:,.3g}" for value in values], fontsize=8, color=theme.foreground, padding=2)
    axis.set_xticks(places, [f"{size:,}" for size in rows["size"].to_list()])
    axis.set_xlabel("features in the SAE")
    axis.set_ylabel("explained variance")
    lowest = min((value for column in COLUMNS for value in rows[column].drop_nulls()), default=0.0)
    axis.set_ylim(1.35 * FLOOR if lowest < 0 else 0, 2.0 if lowest < 0 else 1.45)
    axis.set_yticks([FLOOR, 0, 1] if lowest < 0 else [0, 0.25, 0.5, 0.75, 1.0])
    axis.axhline(0, color=theme.muted, linewidth=0.8)
    legend(axis, theme, loc="upper left")
    return to_png(figure)
