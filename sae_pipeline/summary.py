"""What the command line shows when it is done: numbers per size, the best steerable features, where to look next."""

from pathlib import Path

import duckdb
import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sae_pipeline.report.data import steered_features
from sae_pipeline.store import ArtifactStore

N_BEST = 5


def show_summary(store: ArtifactStore, console: Console) -> None:
    """Print what is there; a size that is not built yet is left out."""
    metrics = _tables(store, "sae_metrics", "sae_metrics.parquet")
    if metrics is not None:
        console.print(_metrics_table(metrics))
    if (database := store.root / "analysis.duckdb").is_file():
        _show_best_steerable(database, console)
    _show_where_to_look(store, console)


def _tables(store: ArtifactStore, stage: str, file: str) -> pl.DataFrame | None:
    """The same table of every size that has been built."""
    paths = [path for size in store.study.sae.sizes if (path := store.path(stage, size) / file).is_file()]
    return pl.concat([pl.read_parquet(path) for path in paths], how="diagonal_relaxed") if paths else None


def _metrics_table(metrics: pl.DataFrame) -> Table:
    table = Table(title="Held-out quality of each SAE", title_justify="left")
    columns = {
        "features": ("size", "{:,.0f}"),
        "L0": ("l0", "{:.1f}"),
        "explained variance": ("explained_variance", "{:.3f}"),
        "CE recovered vs zero": ("ce_recovered_zero", "{:.3f}"),
        "vs mean": ("ce_recovered_mean", "{:.3f}"),
        "delta CE (nat)": ("delta_ce", "{:.3f}"),
        "alive": ("alive_fraction", "{:.1%}"),
    }
    for title in columns:
        table.add_column(title, justify="right")
    for row in metrics.sort("size").iter_rows(named=True):
        table.add_row(*(_number(row.get(key), form) for key, form in columns.values()))
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _show_best_steerable(database: Path, console: Console) -> None:
    with duckdb.connect(str(database), read_only=True) as connection:
        best = steered_features(connection, N_BEST)
    if not best:
        return
    console.print(
        Text("Best steerable features (concept rate: steered, beside the same clamp on a random feature)", style="bold")
    )
    for row in best:
        terms = escape(", ".join(row["concept_terms"][:4]))
        console.print(
            f"[bold]{row['size']}/{row['feature']}[/bold] ({terms}) clamped to {row['best_factor']:g} x max: "
            f"{row['concept_rate']:.0%} beside {row['control_rate']:.0%}"
        )
        for label in ("prompt", "before", "after"):
            text = " ".join(str(row[label] or "").split())
            console.print(Text(f"    {label:<8}{text}"), overflow="ellipsis", no_wrap=True)


def _show_where_to_look(store: ArtifactStore, console: Console) -> None:
    console.print(Text("Where to look next", style="bold"))
    console.print("  make ui                         graph, runs, metrics against size, checks (Dagster)", highlight=False)
    places = {
        store.root / "analysis.duckdb": "every table, for SQL",
        store.path("report") / "report.html": "the report, for a browser",
    }
    for path, what in places.items():
        if path.is_file():
            console.print(f"  {_short(path):<30}  {what}", highlight=False)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)
