"""The start page of a study and the comparison of its sizes."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from sae_pipeline.browser.charts import density_chart, metric_charts
from sae_pipeline.browser.database import Cursor, Row
from sae_pipeline.browser.feature_data import FeatureKey, existing_key, short_explanations
from sae_pipeline.browser.parameters import Refused
from sae_pipeline.browser.relatives import likeness, relatives
from sae_pipeline.browser.state import State
from sae_pipeline.report.tokens import readable

N_BEST = 9
N_RELATIVES = 5  # per size
_SPECIFICITY = """
    with cells as (
        select size, method, control, unit, unit_id, interval,
            avg(score) as score, count(score) as n_scored, count(*) as n_attempted
        from believed_specificity_scores where kind = 'active' group by all
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
        lineage = cursor.rows("select stage, size, data_version, started, seconds from lineage order by started, stage, size")
    return state.page(
        "start.html",
        metrics=metrics,
        charts=metric_charts(metrics)[:4],
        best=best,
        specificity=by_size(specificity),
        corpus=corpus,
        lineage=lineage,
    )


def page_of_study(request: Request, state: State) -> Response:
    """`/of/<study>/<page>`: where links from Dagster lead. To the page, or to the reason why it is not here."""
    study, page = request.path_params["study"], request.path_params["page"]
    if study != state.study.name:
        raise Refused(
            f"That link is about study {study[:80]!r}; this browser shows {state.study.name!r}. Open that study's `ui`."
        )
    query = f"?{request.url.query}" if request.url.query else ""
    # Never a second slash or a backslash at the start: that would be the address of another host.
    return RedirectResponse("/" + quote(page.lstrip("/\\")) + query, 303)


def compare_page(request: Request, state: State) -> Response:
    """`/compare`: every metric against size, how alike the sizes are, and the relatives of one feature (`of`)."""
    with state.database.cursor() as cursor:
        of = existing_key(cursor, request.query_params.get("of") or "")
        found = relatives(state, cursor, of, N_RELATIVES) if of else None
        text = short_explanations(cursor, [of])[of] if of else ""
        known = _facts(cursor, [row["key"] for _, rows in found["sizes"] for row in rows] if found else [])
        alike = likeness(cursor)
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
            " count(*) as n_attempted, null as why from believed_explanation_scores group by all"
            " order by metric, method, size, control"
        )
    metric_names = list(dict.fromkeys((row["metric"], row["method"]) for row in scores))
    return state.page(
        "compare.html", metrics=metrics, charts=metric_charts(metrics), density=density_chart(density) if density else None,
        of=of, text=text, relatives=found, known=known, likeness=alike,
        by_source=by_source, specificity=by_size(specificity), steering=steering,
        scores=[
            (metric.replace("_", " "), by_size([row for row in scores if (row["metric"], row["method"]) == (metric, method)]))
            for metric, method in metric_names
        ],
    )  # fmt: skip


def _facts(cursor: Cursor, keys: list[FeatureKey]) -> dict[FeatureKey, Row]:
    found = cursor.rows(
        "select features.* from features"
        " join (select unnest($sizes) as size, unnest($features) as feature) using (size, feature)",
        sizes=[key.size for key in keys], features=[key.feature for key in keys],
    )  # fmt: skip
    return {FeatureKey(row["size"], row["feature"]): row for row in found}


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
