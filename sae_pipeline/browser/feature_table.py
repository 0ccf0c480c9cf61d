"""The table of features: search, filters, order, pages."""

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from sae_pipeline.browser.database import Cursor, Row
from sae_pipeline.browser.parameters import PER_PAGE, FeatureFilter, Refused, parse
from sae_pipeline.browser.state import State

CONDITIONS = {  # parameter -> condition on memory.main.feature_list
    "size": "size = $size",
    "kind": "kind = $kind",
    "source": "top_source = $source and top_source_share >= 0.75",
    "language": "top_language = $language and top_language_share >= 0.75",
    "min_density": "density >= $min_density",
    "max_density": "density <= $max_density",
    "min_specificity": "specificity >= $min_specificity",
}
FLAGS = {
    ("life", "alive"): "alive", ("life", "dead"): "not alive",
    ("steered", "tried"): "passes is not null", ("steered", "passes"): "passes",
}  # fmt: skip
FROM = "from memory.main.feature_list"


def features_page(request: Request, state: State) -> Response:
    """`/features`: every filter is in the URL."""
    wanted: FeatureFilter = parse(FeatureFilter, dict(request.query_params))
    with state.database.cursor() as cursor:
        cursor.need_search_table()
        near = state.meaning.search(cursor, wanted.q) if wanted.by == "meaning" and wanted.q.strip() else None
        total, found = search(cursor, wanted, near)
        options = _options(cursor)
    asked = {
        name: value for name, value in wanted.model_dump(exclude_defaults=True, exclude={"page"}).items() if value is not None
    }
    return state.page(
        "features.html", wanted=wanted, rows=found, total=total, n_pages=max(1, -(-total // PER_PAGE)), options=options,
        link=lambda **changes: "/features?" + urlencode({**asked, **changes}),
        waiting=state.meaning if wanted.by == "meaning" and wanted.q.strip() and near is None else None,
    )  # fmt: skip


def search(cursor: Cursor, wanted: FeatureFilter, near: dict[str, float] | None = None) -> tuple[int, list[Row]]:
    """(number of hits, the rows of the wanted page). The search table must be there.

    `near`: {explanation text: similarity} replaces the search for words; nearest first unless an order was asked for.
    """
    conditions, values = ["true"], dict[str, Any]()
    source = FROM
    for name, condition in CONDITIONS.items():
        if (value := getattr(wanted, name)) is not None:
            conditions.append(condition)
            values[name] = value
    conditions += [FLAGS[name, value] for name in ("life", "steered") if (value := getattr(wanted, name)) is not None]
    if near is not None:
        source += " join (select unnest($texts) as text, unnest($similarities) as similarity) using (text)"
        values |= {"texts": list(near), "similarities": list(near.values())}
    else:
        for at, word in enumerate(wanted.q.split()):
            conditions.append(f"contains(lower(text), lower($word{at}))")
            values[f"word{at}"] = word
    where = " where " + " and ".join(conditions)
    total = cursor.rows(f"select count(*) as n {source}{where}", **values)[0]["n"]
    # `sort` is one of a fixed list of column names (see FeatureFilter), never free text.
    column, direction = wanted.sort, "desc" if wanted.order == "down" else "asc"
    if near is not None and column == "feature":
        column, direction = "similarity", "desc"
    order = f" order by {column} {direction} nulls last, size, feature limit {PER_PAGE} offset {PER_PAGE * (wanted.page - 1)}"
    return total, cursor.rows(f"select * {source}{where}{order}", **values)


def random_feature(request: Request, state: State) -> Response:
    """`/random`: a living feature, of one size if asked."""
    wanted: FeatureFilter = parse(FeatureFilter, dict(request.query_params))
    condition, values = ("and size = $size", {"size": wanted.size}) if wanted.size is not None else ("", {})
    with state.database.cursor() as cursor:
        row = cursor.row(f"select size, feature from features where alive {condition} order by random() limit 1", **values)
    if row is None:
        raise Refused("No living feature there.")
    return RedirectResponse(f"/{row['size']}/{row['feature']}", 303, headers={"cache-control": "no-store"})


def _options(cursor: Cursor) -> dict[str, list[str]]:
    """What the select boxes offer."""
    return {
        name: [
            row["value"]
            for row in cursor.rows(f"select distinct {name} as value {FROM} where {name} is not null order by value limit 60")
        ]
        for name in ("top_source", "top_language")
    }
