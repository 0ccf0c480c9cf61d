"""One row per measurement: its value with the interval, and its control."""

from pathlib import Path

import polars as pl

from sae_pipeline.plots.figure import THEMES, Theme, legend, new_figure, set_title, to_png


def draw_cases(measured: pl.DataFrame, folder: Path, figure: str) -> None:
    """Write `<figure>.light.png` and `<figure>.dark.png`: shares from 0 to 1, and the others in units of their own."""
    for theme in THEMES:
        (folder / f"{figure}.{theme.name}.png").write_bytes(cases_figure(measured, theme))


def cases_figure(measured: pl.DataFrame, theme: Theme) -> bytes:
    """PNG of the rows with a value. Left: AUROC, F1, shares and ranks; right: counts and differences, each by its own maximum."""
    shown = measured.filter(pl.col("value").is_not_null())
    shares = shown.filter(pl.all_horizontal(pl.col("value", "control_value").fill_null(0.0).is_between(0, 1)))
    others = shown.join(shares.select("measurement"), on="measurement", how="anti")
    height = 0.9 + 0.24 * max(shares.height, others.height, 1)
    drawn, axes = new_figure(theme, 1, 2, width=10.0, height=height)
    _rows(axes[0][0], shares, theme, "areas, F1, shares, ranks (0 to 1)", own_scale=False)
    _rows(axes[0][1], others, theme, "counts and changes (of the largest edge)", own_scale=True)
    if shown.height:
        legend(axes[0][0] if shares.height else axes[0][1], theme, loc="lower right")
    return to_png(drawn)


def _rows(axis, rows: pl.DataFrame, theme: Theme, title: str, own_scale: bool) -> None:
    names = []
    for place, row in enumerate(rows.iter_rows(named=True)):
        edges = [abs(row[name]) for name in ("value", "low", "high", "control_value") if row[name] is not None]
        scale = max(edges, default=1.0) or 1.0 if own_scale else 1.0
        color = theme.main if row["status"] == "ok" else theme.muted
        if row["low"] is not None and row["high"] is not None:
            axis.plot([row["low"] / scale, row["high"] / scale], [place, place], color=color, linewidth=1.4)
        axis.plot(row["value"] / scale, place, "o", color=color, markersize=5, label="value" if not place else None)
        if row["control_value"] is not None:
            axis.plot(
                row["control_value"] / scale, place, "D", color=theme.controls[0], markersize=4,
                label="control" if not place else None,
            )  # fmt: skip
        number = f"  {row['value']:.3g}" if own_scale else ""
        names.append(f"{row['measurement']}{number}{'' if row['status'] == 'ok' else ' (not testable)'}")
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.invert_yaxis()
    set_title(axis, title, theme)
