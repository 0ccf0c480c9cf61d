"""`/<size>/<feature>`: everything about one feature; its raw rows as JSON; an example in its full block."""

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sae_pipeline.browser import feature_data as data
from sae_pipeline.browser.charts import activation_histogram, dose_chart
from sae_pipeline.browser.database import Cursor, Row
from sae_pipeline.browser.feature_data import FeatureKey
from sae_pipeline.browser.relatives import relatives
from sae_pipeline.browser.state import State
from sae_pipeline.errors import UserError
from sae_pipeline.report.tokens import shown_tokens

N_NEIGHBOURS = 8


class NotFound(Exception):
    """There is no such page."""


def feature_page(request: Request, state: State) -> Response:
    """The feature page."""
    with state.database.cursor() as cursor:
        return state.page("feature.html", **feature_context(state, cursor, _key(request)))


def feature_context(state: State, cursor: Cursor, key: FeatureKey) -> dict[str, Any]:
    """What the template `feature.html` shows. Raises `NotFound`."""
    row = _existing(cursor, key)
    top, by_interval = data.examples(cursor, key, row["max_activation"])
    steering = data.steering(cursor, key)
    histogram = data.histogram(cursor, key)
    charts = [
        (title, dose_chart(steering["curve"], metric, title))
        for metric, title in (("concept_rate", "concept rate"), ("fluency", "fluent texts"))
        if steering and any(point["metric"] == metric for point in steering["curve"])
    ]
    return {
        "key": key, "row": row, "explanations": data.explanations(cursor, key), "top": top, "by_interval": by_interval,
        "logits": data.logits(cursor, key), "scores": score_table(data.scores(cursor, key)), "steering": steering,
        "charts": charts, "neighbours": relatives(state, cursor, key, N_NEIGHBOURS), "sql": data.copyable_sql(key),
        "histogram": activation_histogram(histogram) if histogram else None,
        "histogram_method": next((bar["method"] for bar in histogram if bar["method"]), None),
    }  # fmt: skip


def feature_json(request: Request, state: State) -> Response:
    """The raw rows of every table that speak of the feature."""
    key = _key(request)
    with state.database.cursor() as cursor:
        _existing(cursor, key)
        return JSONResponse(jsonable(data.raw_rows(cursor, key)))


def context_page(request: Request, state: State) -> Response:
    """An example in its whole block, with the feature's activation on every token."""
    import polars as pl

    key, token_index = _key(request), request.path_params["token_index"]
    corpus, statistics = state.root / "corpus", state.root / "feature_stats" / str(key.size)
    if not (corpus / "blocks.parquet").is_file():
        raise UserError(str(corpus), "is not there", "Run `sae-pipeline run`; tables alone have no full text.")
    with state.database.cursor() as cursor:
        row = _existing(cursor, key)
        block, center = divmod(token_index, state.study.corpus.context)
        found = pl.scan_parquet(corpus / "blocks.parquet").filter(pl.col("block") == block).collect().to_dicts()
        if not found:
            raise NotFound
        token_ids, doc_ids = found[0]["token_ids"], found[0]["doc_ids"]
        words = cursor.rows("select token_id, text from vocabulary where token_id in (select unnest($ids))", ids=token_ids)
        documents = cursor.rows(
            "select doc_id, source, language, title from documents where doc_id in (select unnest($ids))",
            ids=sorted(set(doc_ids)),
        )
    first = block * state.study.corpus.context
    activations = [0.0] * len(token_ids)
    for split in ("train", "held_out"):
        cached = pl.scan_parquet(statistics / f"activations_{split}.parquet").filter(
            (pl.col("feature") == key.feature) & pl.col("token_index").is_between(first, first + len(token_ids) - 1)
        )
        for index, value in cached.select("token_index", "value").collect().iter_rows():
            activations[index - first] = value
    text_of = {word["token_id"]: word["text"] for word in words}
    tokens = shown_tokens([text_of.get(i, f"⟨{i}⟩") for i in token_ids], activations, row["max_activation"], center)
    template = "context_part.html" if request.query_params.get("part") else "context.html"
    return state.page(template, key=key, tokens=tokens, documents=documents, split=found[0]["split"], token_index=token_index)


def score_table(scores: list[Row]) -> list[Row]:
    """One row per (metric, method) with a cell per control: [{"metric", "method", "cells"}]."""
    table: dict[tuple[str, str], Row] = {}
    for score in scores:
        entry = table.setdefault(
            (score["metric"], score["method"]), {"metric": score["metric"], "method": score["method"], "cells": {}}
        )
        entry["cells"][score["control"]] = score
    return list(table.values())


def jsonable(value: Any) -> Any:
    """Numbers that JSON has no word for become null; dates become text."""
    if isinstance(value, dict):
        return {name: jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def _key(request: Request) -> FeatureKey:
    size, feature = request.path_params["size"], request.path_params["feature"]
    if max(size, feature) >= 2**31:
        raise NotFound
    return FeatureKey(size, feature)


def _existing(cursor: Cursor, key: FeatureKey) -> Row:
    row = data.statistics(cursor, key)
    if row is None:
        raise NotFound
    return row
