"""Each concept's feature beside the best random direction and the dense probe."""

from collections.abc import Sequence

from sae_pipeline.plots.figure import Theme, legend, new_figure, to_png


def concept_families(rows: Sequence[dict], threshold: float, theme: Theme) -> bytes:
    """PNG: held-out AUROC of each concept's feature with its 95 % interval, of its null, of the probe; found ones are filled.

    `rows`: of `concept_search_results`; those of a concept's chosen method are drawn. `threshold`: the AUROC asked for.
    """
    chosen = sorted((row for row in rows if row["is_choice"]), key=lambda row: (row["auroc"], row["concept"]))
    figure, [[axis]] = new_figure(theme, height=1.4 + 0.24 * len(chosen))
    for y, row in enumerate(chosen):
        axis.plot([row["low"], row["high"]], [y, y], color=theme.main, linewidth=1.4, zorder=2)
        fill = theme.main if row["verdict"] == "found" else theme.background
        axis.plot(
            row["auroc"],
            y,
            "o",
            color=theme.main,
            markerfacecolor=fill,
            markersize=5,
            zorder=3,
            label="feature" if not y else None,
        )
    places = range(len(chosen))
    null, probe = ([row[name] for row in chosen] for name in ("null_auroc", "probe_auroc"))
    axis.plot(null, places, "D", color=theme.controls[0], markersize=4, label="best random direction", zorder=4)
    axis.plot(probe, places, "|", color=theme.second, markersize=10, markeredgewidth=1.6, label="dense probe", zorder=1)
    axis.axvline(threshold, color=theme.muted, linewidth=0.8, linestyle="--")
    axis.set_yticks(list(places), [f"{row['concept'].replace('_', ' ')}: {row['verdict']}" for row in chosen])
    axis.set_xlabel("AUROC on held-out texts (filled: found)")
    legend(axis, theme, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return to_png(figure)
