"""Build the report: gather, render, one self-contained file with equal bytes for equal data."""

import base64
import json
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from sae_pipeline.plots.comparison import TABLE, figure_file
from sae_pipeline.plots.figure import DARK, LIGHT
from sae_pipeline.report.data import pivot, random_features, rows, steered_features
from sae_pipeline.report.pages import environment
from sae_pipeline.report.survey import PAGE, survey_page
from sae_pipeline.store import Outcome

REPORT = "report.html"
QUALITY = (
    ("specificity", "mean_score", "Specificity, rubric 0 to 3 (mean of interval means)"),
    ("specificity", "share_of_score_3", "Share of windows that the explanation cleanly identifies (score 3)"),
    ("specificity", "mean_score_same_token_inactive", "Decoys: the same token, feature inactive (lower is better)"),
    ("specificity", "mean_score_random", "Decoys: random windows (lower is better)"),
)


# What two sizes ask in common is paid once.
SPENT = """
    select count(*) as n_calls, coalesce(sum(cost_usd), 0) as cost_usd, coalesce(bool_or(plumbing), false) as plumbing
    from (select distinct on (request_sha, call_rank) * from (
        select *, row_number() over (partition by stage, size, request_sha order by call_id) as call_rank from llm_calls))
"""
LEADERBOARD = """
    select * from explainer_leaderboard where control = 'none' and n_paired > 1 order by metric, scorer, size, method
"""


def build_report(analysis_db_path: Path, comparison_folder: Path, work: Path) -> Outcome:
    """Write `report.html` from the analysis database and the artefact `size_comparison`, `survey.html` when there are verdicts.

    A page requests nothing from anywhere: figures are inside it, there is no script, and its own policy forbids loading.
    """
    comparison = pl.read_parquet(comparison_folder / TABLE)
    with duckdb.connect(str(analysis_db_path), read_only=True) as connection:
        connection.execute("set threads = 1")  # equal bytes for equal data: sums in one order
        page = render(connection, comparison, comparison_folder, study_name=analysis_db_path.parent.name)
        survey = survey_page(connection, analysis_db_path.parent, analysis_db_path.parent.name)
    (work / REPORT).write_text(page, encoding="utf-8")
    (work / PAGE).unlink(missing_ok=True)
    if survey is not None:
        (work / PAGE).write_text(survey, encoding="utf-8")
    passing = comparison.filter((pl.col("subject") == "steering") & (pl.col("metric") == "passes"))
    return Outcome({
        "bytes": len(page.encode()), "sizes": ", ".join(str(size) for size in comparison["size"].unique().sort()),
        "steerable_features": round(float((passing["value"].fill_null(0) * passing["n_attempted"]).sum())),
    })  # fmt: skip


def render(connection: duckdb.DuckDBPyConnection, comparison: pl.DataFrame, comparison_folder: Path, study_name: str) -> str:
    """The whole page as text."""
    figures = json.loads((comparison_folder / "figures.json").read_text(encoding="utf-8"))
    scores = sorted(
        set(comparison.filter((pl.col("subject") == "explanations") & ~pl.col("metric").str.starts_with("share_"))["metric"])
    )
    quality = [(title, pivot(comparison, subject, metric)) for subject, metric, title in QUALITY]
    context: dict[str, Any] = {
        "study_name": study_name,
        "metrics": rows(connection, "select * from sae_metrics order by size"),
        "by_source": rows(connection, "select * from sae_metrics_by_source order by source, size"),
        "figures": [_figure(comparison_folder, entry) for entry in figures],
        "quality": [(title, table) for title, table in quality if table],
        "explanation_scores": [(metric, pivot(comparison, "explanations", metric)) for metric in scores],
        "kinds": _kinds(comparison),
        "judges": rows(
            connection,
            "select judge_calibration.*, (select sum(cost_usd) from llm_calls"
            " where llm_calls.size = judge_calibration.size) as cost_usd from judge_calibration order by size",
        ),
        "spent": rows(connection, SPENT)[0],
        "leaderboard": rows(connection, LEADERBOARD),
        "steering_totals": rows(
            connection,
            "select size, count(*) as n_tried, count_if(passes) as n_passes, any_value(n) as n from steering_features"
            " group by size order by size",
        ),
        "steered": steered_features(connection),
        "cards": random_features(connection),
        "corpus": rows(connection, "select * from corpus_sources order by split desc, source, language"),
        "masked": rows(connection, "select * from masked_fraction order by split desc, n_tokens desc"),
    }
    return environment("sae_pipeline.report").get_template("report.html").render(context)


def _kinds(comparison: pl.DataFrame) -> list[dict[str, Any]]:
    """Share of explanations by kind: [{"kind", "method", "shares": {size: row}}]."""
    chosen = comparison.filter((pl.col("metric").str.starts_with("share_")) & (pl.col("subject") == "explanations"))
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in chosen.filter(pl.col("control") == "none").sort("method", "metric", "size").iter_rows(named=True):
        kind = row["metric"].removeprefix("share_")
        table.setdefault((row["method"], kind), {"kind": kind, "method": row["method"], "shares": {}})["shares"][row["size"]] = (
            row
        )
    return list(table.values())


def _figure(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {
        theme.name: base64.b64encode((folder / figure_file(entry["name"], theme)).read_bytes()).decode()
        for theme in (LIGHT, DARK)
    }
