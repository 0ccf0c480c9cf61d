"""The charts of the pages, from rows of the database."""

from collections.abc import Sequence
from math import log10

from markupsafe import Markup

from sae_pipeline.browser.database import Row
from sae_pipeline.browser.svg import Bar, Line, bars, lines

ARMS = (
    ("none", "the feature", "main"),
    ("random_feature", "random feature", "c1"),
    ("random_direction", "random direction", "c2"),
)


def activation_histogram(rows: Sequence[Row]) -> Markup:
    """Activations per interval on a log scale; inside a bar, the shares of scores 0-3 (the paper's figure)."""
    items = []
    for row in rows:
        height = log10(1 + row["n"])
        counts = [row[f"s{score}"] or 0 for score in range(4)]
        scored = sum(counts)
        if scored:
            segments = [(f"s{score}", height * count / scored) for score, count in enumerate(counts)]
            hint = ", ".join(f"score {score}: {count}" for score, count in enumerate(counts))
        else:
            segments, hint = [("unscored", height)], "not scored"
        items.append(Bar(str(row["interval"]), segments, f"interval {row['interval']}: {row['n']:,} activations; {hint}"))
    return bars(
        "Activations by interval, coloured by specificity score", items, "activation interval (10: near the maximum)",
        "activations", tick=lambda height: f"{10**height - 1:,.0f}",
    )  # fmt: skip


def dose_chart(curve: Sequence[Row], metric: str, title: str) -> Markup:
    """One metric against the clamp factor: the feature and its controls."""
    series = [
        Line(name, css, [(row["factor"], row["value"]) for row in curve if _is(row, metric, control, "clamp")])
        for control, name, css in ARMS
        if any(_is(row, metric, control, "clamp") for row in curve)
    ]
    return lines(title, series, "factor (multiples of the training maximum)", title, y_range=(0.0, 1.0))


def _is(row: Row, metric: str, control: str, mode: str) -> bool:
    return row["metric"] == metric and row["control"] == control and row["mode"] == mode and row["factor"] is not None


def metric_charts(metrics: Sequence[Row]) -> list[tuple[str, Markup]]:
    """The start page's small multiples: one metric against size each."""
    wanted = (
        ("explained_variance", "explained variance"), ("l0", "L0"), ("ce_recovered_zero", "CE recovered, zero ablation"),
        ("ce_recovered_mean", "CE recovered, mean ablation"), ("delta_ce", "ΔCE, nats"), ("alive_fraction", "alive features"),
    )  # fmt: skip
    return [
        (
            title,
            lines(
                title,
                [Line(title, "main", [(row["size"], row[name]) for row in metrics])],
                "features in the SAE",
                "",
                log2_x=True,
            ),
        )
        for name, title in wanted
        if any(row[name] is not None for row in metrics)
    ]


def density_chart(rows: Sequence[Row]) -> Markup:
    """Features by log10 density, one line per size. `rows`: {size, bin, share}."""
    series = [
        Line(f"{size:,} features", f"size{at % 4}", [(row["bin"], row["share"]) for row in rows if row["size"] == size])
        for at, size in enumerate(sorted({row["size"] for row in rows}))
    ]
    top = 1.1 * max(row["share"] for row in rows)
    return lines("Share of features by density", series, "log10 density", "", y_range=(0.0, top))
