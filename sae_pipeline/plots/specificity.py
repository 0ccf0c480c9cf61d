"""The paper's specificity figure: how well explanations fit, by how strongly the feature is active (paper, 'Assessing Feature
Interpretability'), beside the controls that say what the numbers are worth."""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_pipeline.plots.figure import LIGHT, Theme, legend, new_figure, set_title, size_colors, to_png
from sae_pipeline.tables.columns import N_INTERVALS

COLUMNS = (  # (control in the table, title)
    ("none", "matched"),
    ("shuffled", "shuffled"),
    ("random_direction", "random direction"),
    ("mlp_neuron", "MLP neuron"),
    ("random_model", "random model"),
    ("baseline", "top token"),
)
SCORES = (0, 1, 2, 3)


def score_name(scores: pl.DataFrame) -> str:
    """What the number is: "score", and for the offline method that it is a proxy."""
    methods = set(scores["method"].unique()) if "method" in scores.columns else set()
    return "score (proxy without an LLM)" if methods == {"proxy"} else "score"


def score_counts(scores: pl.DataFrame, kinds: Sequence[str] = ("active",)) -> pl.DataFrame:
    """Scored active examples counted by (size, control, interval, score); `specificity_scores` rows in, null scores left out."""
    return (
        scores.filter(pl.col("kind").is_in(kinds) & (pl.col("status") == "ok") & pl.col("interval").is_not_null())
        .group_by("size", "control", "interval", "score")
        .agg(pl.len().alias("n"))
        .sort("size", "control", "interval", "score")
    )


def specificity_by_interval(scores: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: share of scores 0-3 in each activation interval; one row of panels per size, one column per control.

    Examples are drawn uniformly inside each interval, so every column is a distribution of its own; n stands above it.
    """
    counts = score_counts(scores)
    sizes = counts["size"].unique().sort().to_list() or [0]
    present = set(counts["control"].unique().to_list())
    columns = [column for column in COLUMNS if column[0] in present] or [COLUMNS[0]]
    width = min(2.2 + 1.75 * len(columns), 10.0)
    figure, axes = new_figure(theme, len(sizes), len(columns), width=width, height=0.8 + 1.75 * len(sizes), share_y=True)
    for row, size in zip(axes, sizes, strict=True):
        for axis, (control, title) in zip(row, columns, strict=True):
            _stack(axis, counts.filter((pl.col("size") == size) & (pl.col("control") == control)), theme)
            if row is axes[0]:
                set_title(axis, title, theme, pad=12)
            if row is axes[-1]:
                axis.set_xlabel("activation interval")
        row[0].set_ylabel(f"{size:,} features\nshare of examples" if size else "share of examples")
    _key(figure, axes[0][0], scores, theme)
    return to_png(figure)


def _key(figure: Figure, axis: Axes, scores: pl.DataFrame, theme: Theme) -> None:
    """The scores' colours, beside the panels."""
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    title = score_name(scores).replace(" (", "\n(")
    key = figure.legend(
        handles[::-1], labels[::-1], loc="outside right center", frameon=False, fontsize=8, title=title
    )  # fmt: skip
    key.get_title().set_color(theme.muted)
    key.get_title().set_fontsize(8)
    for text in key.get_texts():
        text.set_color(theme.foreground)


def _stack(axis, counts: pl.DataFrame, theme: Theme) -> None:
    places = list(range(1, N_INTERVALS + 1))
    table = {(row["interval"], row["score"]): row["n"] for row in counts.iter_rows(named=True)}
    totals = [sum(table.get((place, score), 0) for score in SCORES) for place in places]
    bottom = [0.0] * N_INTERVALS
    for score in SCORES:
        shares = [table.get((place, score), 0) / total if total else 0.0 for place, total in zip(places, totals, strict=True)]
        axis.bar(places, shares, bottom=bottom, width=0.86, color=theme.scores[score], label=str(score), linewidth=0)
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    for place, total in zip(places, totals, strict=True):
        if total:
            axis.text(place, 1.01, str(total), ha="center", va="bottom", fontsize=5.5, color=theme.muted)
    axis.set_ylim(0, 1)
    axis.set_xlim(0.4, N_INTERVALS + 0.6)
    axis.set_xticks([1, 5, 10])
    axis.grid(False)


def chosen_density(scores: pl.DataFrame, intervals: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: the paper's figure of one feature. Left: how its activations are distributed, each bar coloured by the scores of the
    windows drawn from that interval. Right: the scores alone, since strong activations are few.

    `scores`: its rows of `specificity_scores` under its own explanation; `intervals`: its held-out rows of `feature_intervals`.
    """
    counts = score_counts(scores, ("active", "close_look"))
    n_active = dict(intervals.select("interval", "n").iter_rows())
    total = max(sum(n_active.values()), 1)
    by_cell = {(row["interval"], row["score"]): row["n"] for row in counts.iter_rows(named=True)}
    figure, ((density, shares),) = new_figure(theme, 1, 2, width=8.0, height=2.8)
    bottom = [0.0] * N_INTERVALS
    for score in SCORES:
        heights: list[float] = []
        for place in range(1, N_INTERVALS + 1):
            n_scored = sum(by_cell.get((place, each), 0) for each in SCORES)
            share = by_cell.get((place, score), 0) / n_scored if n_scored else 0.0
            # Ten intervals on (0, maximum]: a share times ten is a density over the activation in units of the maximum.
            heights.append(N_INTERVALS * n_active.get(place, 0) / total * share)
        places = [(place - 0.5) / N_INTERVALS for place in range(1, N_INTERVALS + 1)]
        density.bar(places, heights, bottom=bottom, width=0.95 / N_INTERVALS, color=theme.scores[score], label=str(score))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    _stack(shares, counts, theme)
    density.set_xlabel("activation / training maximum")
    density.set_ylabel("density of activations")
    shares.set_xlabel("activation interval")
    shares.set_ylabel("share of examples")
    n_scored = int(counts["n"].sum())
    set_title(density, f"{n_scored:,} of {total:,} held-out activations scored", theme)
    _key(figure, density, scores, theme)
    return to_png(figure)


def specificity_difference(rows: pl.DataFrame, theme: Theme = LIGHT) -> bytes:
    """PNG: matched minus shuffled mean score against the activation interval, one line per size with its 95 % interval.
    `rows`: those of the view `specificity_by_interval`, of one method.
    """
    sizes = rows["size"].unique().sort().to_list()
    colors = size_colors(sizes, theme)
    figure, axes = new_figure(theme, height=2.8)
    axis = axes[0][0]
    for size in sizes:
        line = rows.filter(pl.col("size") == size)
        x = line["interval"].to_numpy()
        axis.plot(x, line["difference"].to_numpy(), marker="o", markersize=4, color=colors[size], label=f"{size:,} features")
        known = line.drop_nulls("low")
        axis.fill_between(
            known["interval"].to_numpy(),
            known["low"].to_numpy(),
            known["high"].to_numpy(),
            color=colors[size],
            alpha=0.15,
            linewidth=0,
        )
    axis.axhline(0, color=theme.muted, linewidth=0.8)
    axis.set_xticks(range(1, N_INTERVALS + 1))
    axis.set_xlabel("activation interval (10: near the training maximum)")
    axis.set_ylabel(f"matched minus shuffled\n{score_name(rows)}")
    if sizes:
        legend(axis, theme, loc="best")
    return to_png(figure)
