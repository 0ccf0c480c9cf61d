"""The start page of a study and the comparison of its sizes."""

from starlette.requests import Request
from starlette.responses import Response

from sae_pipeline.browser.charts import density_chart, metric_charts
from sae_pipeline.browser.database import Cursor, Row
from sae_pipeline.browser.feature_data import FeatureKey, short_explanations
from sae_pipeline.browser.state import State
from sae_pipeline.report.tokens import readable

N_BEST = 9
_SPECIFICITY = """
    with cells as (
        select size, method, control, unit, unit_id, interval,
            avg(score) as score, count(score) as n_scored, count(*) as n_attempted
        from specificity_scores where kind = 'active' group by all
    ), units as (
        select size, method, control, unit, unit_id,
            avg(score) as score, sum(n_scored) as n_scored, sum(n_attempted) as n_attempted
        from cells group by all
    )
    select size, method, control, avg(score) as value, sum(n_scored)::bigint as n_scored, sum(n_attempted)::bigint as n_attempted,
        null as why
    from units group by all order by method, size, control
"""
_DENSITY = """
    select size, bin, count(*) / sum(count(*)) over (partition by size) as share
    from (select size, floor(log10(density) * 4) / 4 as bin from features where density > 0)
    group by size, bin order by size, bin
"""


def start_page(request: Request, state: State) -> Response:
    """`/`: the study in one page, and the door to everything else."""
    with state.database.cursor() as cursor:
        metrics = cursor.rows("select * from sae_metrics order by size")
        best = best_steerable(cursor)
        specificity = cursor.rows(_SPECIFICITY)
        corpus = cursor.rows(
            "select source, sum(n_documents)::bigint as n_documents, sum(n_tokens)::bigint as n_tokens from corpus_sources"
            " group by source order by n_tokens desc"
        )
    return state.page(
        "start.html",
        metrics=metrics,
        charts=metric_charts(metrics)[:4],
        best=best,
        specificity=by_size(specificity),
        corpus=corpus,
    )


def compare_page(request: Request, state: State) -> Response:
    """`/compare`: every metric against size."""
    with state.database.cursor() as cursor:
        metrics = cursor.rows("select * from sae_metrics order by size")
        by_source = cursor.rows("select * from sae_metrics_by_source order by source, size")
        specificity = cursor.rows(_SPECIFICITY)
        density = cursor.rows(_DENSITY)
        steering = cursor.rows(
            "select size, count(*) as n_tried, count_if(passes) as n_passes, avg(concept_rate) as concept_rate,"
            " avg(control_rate) as control_rate from steering_features group by size order by size"
        )
        scores = cursor.rows(
            "select size, metric, method, control, avg(value) as value, count(value) as n_scored,"
            " count(*) as n_attempted, null as why from explanation_scores group by all order by metric, method, size, control"
        )
    metric_names = list(dict.fromkeys((row["metric"], row["method"]) for row in scores))
    return state.page(
        "compare.html", metrics=metrics, charts=metric_charts(metrics), density=density_chart(density) if density else None,
        by_source=by_source, specificity=by_size(specificity), steering=steering,
        scores=[
            (metric.replace("_", " "), by_size([row for row in scores if (row["metric"], row["method"]) == (metric, method)]))
            for metric, method in metric_names
        ],
    )  # fmt: skip


def best_steerable(cursor: Cursor, n: int = N_BEST) -> list[Row]:
    """The features with the clearest effect, for the doors to the playground."""
    found = cursor.rows("select * from best_steerable where best_factor is not null limit $n", n=n)
    texts = short_explanations(cursor, [FeatureKey(row["size"], row["feature"]) for row in found])
    for row in found:
        row["text"] = texts[FeatureKey(row["size"], row["feature"])]
        row["concept_terms"] = [readable(term, 24) for term in row["concept_terms"][:3]]
    return found


def by_size(rows: list[Row]) -> list[Row]:
    """One row per (size, method) with a cell per control: [{"size", "method", "cells"}]."""
    table: dict[tuple[int, str], Row] = {}
    for row in rows:
        entry = table.setdefault((row["size"], row["method"]), {"size": row["size"], "method": row["method"], "cells": {}})
        entry["cells"][row["control"]] = row
    return list(table.values())
