"""The artefact `size_comparison`: how the SAE sizes compare, as one table and a set of figures."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from sae_pipeline.plots.distributions import density_histogram
from sae_pipeline.plots.figure import THEMES, Theme
from sae_pipeline.plots.sizes import masked_and_unmasked, metrics_by_size
from sae_pipeline.plots.specificity import chosen_density, specificity_by_interval, specificity_difference
from sae_pipeline.plots.steering import dose_curve
from sae_pipeline.plots.summaries import size_comparison
from sae_pipeline.plots.training import training_curves
from sae_pipeline.progress import track
from sae_pipeline.store import Outcome

TABLE = "size_comparison.parquet"
CHOSEN = "chosen"  # prefix of the figures of single features
_CHOSEN = "select distinct size, feature from believed_specificity_scores where kind = 'close_look' order by all"
HEADLINE = ("explained_variance", "l0", "ce_recovered_zero", "ce_recovered_mean", "delta_ce", "alive_fraction")


@dataclass(frozen=True)
class Figure:
    """A figure of the comparison: `query` gives the rows that `draw` shows.

    Where the rows have a column `method`, every method gets a figure of its own: methods are never averaged together.
    """

    name: str
    title: str
    query: str
    draw: Callable[[pl.DataFrame, Theme], bytes]


_SCORES = """
    select size, unit, unit_id, feature, kind, control, method, interval, score, status from believed_specificity_scores
    order by all
"""
_DIFFERENCES = "select * from specificity_by_interval order by all"  # the view leaves out who is not believed
FIGURES = (
    Figure("metrics", "Quality against size, on held-out tokens", "select * from sae_metrics order by size", metrics_by_size),
    Figure(
        "training", "Training", "select * from training_history where explained_variance_batch is not null order by size, step",
        training_curves,
    ),
    Figure(
        "masked", "What massive activations do to explained variance", "select * from sae_metrics order by size",
        masked_and_unmasked,
    ),
    Figure(
        "density", "How often features are active", "select size, density, alive from features order by size, feature",
        density_histogram,
    ),
    Figure("specificity", "Specificity scores by activation interval, beside the controls", _SCORES, specificity_by_interval),
    Figure("specificity_difference", "Right explanation minus shuffled explanation", _DIFFERENCES, specificity_difference),
    Figure(
        "steering", "Steering: dose and effect", "select * from steering_scores order by all",
        lambda rows, theme: dose_curve(rows, theme=theme),
    ),
)  # fmt: skip


def figure_file(name: str, theme: Theme) -> str:
    """Where a figure lies inside the artefact."""
    return f"figures/{name}.{theme.name}.png"


def build_size_comparison(analysis_db_path: Path, work: Path) -> Outcome:
    """Write `size_comparison.parquet` (see `summaries.SCHEMA`), every figure in a light and a dark look, and `figures.json`.

    Features that were looked at closely get the paper's density figure, by every method that scored them.
    `figures.json` lists name, title and method (null: measured) of the figures. One without rows is left out; the metadata
    says which.
    """
    (work / "figures").mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(analysis_db_path), read_only=True) as connection:
        connection.execute("set threads = 1")  # several would add up means in another order each time: other last digits
        table = size_comparison(connection)
        drawn = [entry for figure in track(FIGURES, "figures", unit="figures") for entry in _draw(figure, connection, work)]
        chosen = connection.sql(_CHOSEN).fetchall()
        for size, feature in track(chosen, "chosen features", unit="features"):
            drawn += _draw_chosen(size, feature, connection, work)
    table.write_parquet(work / TABLE)
    (work / "figures.json").write_text(json.dumps(drawn, indent=1, ensure_ascii=False), encoding="utf-8")
    metadata: dict[str, object] = {
        f"{row['metric']} ({row['size']})": round(row["value"], 4)
        for row in table.filter((pl.col("subject") == "sae") & pl.col("metric").is_in(HEADLINE)).iter_rows(named=True)
        if row["value"] is not None
    }
    metadata["n_rows"] = table.height
    metadata["figures"] = ", ".join(entry["name"] or "" for entry in drawn)
    missing = [figure.title for figure in FIGURES if figure.title not in {entry["title"] for entry in drawn}]
    metadata["figures_without_rows"] = "; ".join(missing) or "none"
    return Outcome(metadata)


def _draw_chosen(size: int, feature: int, connection: duckdb.DuckDBPyConnection, work: Path) -> list[dict[str, str | None]]:
    """One figure for each method."""
    key = f"size = {int(size)} and feature = {int(feature)}"
    scores = connection.sql(f"select * from ({_SCORES}) where {key} and control = 'none'").pl()
    intervals = connection.sql(f"select * from feature_intervals where {key} and split = 'held_out'").pl()
    drawn: list[dict[str, str | None]] = []
    for (method,), mine in sorted(scores.partition_by("method", as_dict=True).items()):
        name = f"{CHOSEN}-{size}-{feature}-{method}"
        for theme in THEMES:
            picture = chosen_density(mine, intervals, theme)
            (work / figure_file(name, theme)).write_bytes(picture)
        drawn.append({"name": name, "title": f"{size}/{feature}: its activations, by specificity score", "method": str(method)})
    return drawn


def _draw(figure: Figure, connection: duckdb.DuckDBPyConnection, work: Path) -> list[dict[str, str | None]]:
    rows = connection.sql(figure.query).pl()
    methods = rows["method"].unique().sort().to_list() if "method" in rows.columns else [None]
    drawn: list[dict[str, str | None]] = []
    for method in methods if rows.height else []:
        name = figure.name if method is None else f"{figure.name}-{method}"
        chosen = rows if method is None else rows.filter(pl.col("method") == method)
        for theme in THEMES:
            (work / figure_file(name, theme)).write_bytes(figure.draw(chosen, theme))
        drawn.append({"name": name, "title": figure.title, "method": method})
    return drawn
