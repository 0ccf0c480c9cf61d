"""`/map`: all features of all sizes at their places, coloured by size, specificity, source or density; drawn by map.js.

Every colouring sorts the features into a few named groups here, so that the script only draws.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sae_pipeline.browser.database import Row
from sae_pipeline.browser.feature_data import existing_key, parsed_key, short_explanations
from sae_pipeline.browser.parameters import Refused
from sae_pipeline.browser.relatives import relatives
from sae_pipeline.browser.state import State
from sae_pipeline.report.tokens import visible

COLOURINGS = {"size": "size", "specificity": "specificity score", "source": "source of text", "density": "density"}
N_AROUND = 8  # per size
MAX_HINTS = 24
MOSTLY = 0.75  # of its strongest examples come from one source, or it is a mixed feature
N_COLOURS = 6
SCORES = (("0 to 0.5", "s0"), ("0.5 to 1.5", "s1"), ("1.5 to 2.5", "s2"), ("2.5 to 3", "s3"))
DENSITIES = (("up to 0.01 %", "s0"), ("0.01 to 0.1 %", "s1"), ("0.1 to 1 %", "s2"), ("over 1 %", "s3"))
REST = "rest"


def map_page(request: Request, state: State) -> Response:
    """The page; with `around=<size>/<feature>` it opens at that feature and lists its nearest ones."""
    colour = request.query_params.get("colour") or "size"
    if colour not in COLOURINGS:
        raise Refused(f"The map is coloured by {', '.join(COLOURINGS)}.")
    with state.database.cursor() as cursor:
        (counted,) = cursor.rows("select count(*) as n from feature_map")
        around = existing_key(cursor, request.query_params.get("around") or "")
        near = relatives(state, cursor, around, N_AROUND) if around else None
        text = short_explanations(cursor, [around])[around] if around else ""
    return state.page("map.html", n=counted["n"], colour=colour, colourings=COLOURINGS, around=around, near=near, text=text)


def map_points(request: Request, state: State) -> Response:
    """Places and groups of all features, column by column.

    `colourings`: {name: {"groups": [{"label", "colour", "n"}], "of": [group of each feature]}}.
    """
    with state.database.cursor() as cursor:
        cursor.need_search_table()
        # The largest size first: the few features of a small one are then drawn on top.
        rows = cursor.rows(
            "select size, feature, x, y, alive, density, specificity, top_source, top_source_share"
            " from feature_map join memory.main.feature_list using (size, feature) order by size desc, feature"
        )
    sizes = sorted({row["size"] for row in rows}, reverse=True)
    counts: dict[str, int] = {}
    for row in rows:
        if row["top_source"] is not None and row["top_source_share"] >= MOSTLY:
            counts[row["top_source"]] = counts.get(row["top_source"], 0) + 1
    by_size = [(f"{size:,}", f"cat{at % N_COLOURS}") for at, size in enumerate(sizes)]
    sources = sorted(counts, key=lambda source: (-counts[source], source))[:N_COLOURS]
    return JSONResponse({
        "size": [row["size"] for row in rows], "feature": [row["feature"] for row in rows],
        "x": [round(row["x"], 3) for row in rows], "y": [round(row["y"], 3) for row in rows],
        "colourings": {
            "size": _groups(rows, lambda row: sizes.index(row["size"]), by_size),
            "specificity": _groups(rows, _score, [("not scored", REST), *SCORES]),
            "source": _groups(
                rows, lambda row: _source(row, sources),
                [("mixed", REST), *((f"mostly {visible(source)}", f"cat{at}") for at, source in enumerate(sources))],
            ),
            "density": _groups(rows, _density, [("dead", REST), *DENSITIES]),
        },
    })  # fmt: skip


def hints(request: Request, state: State) -> Response:
    """One line for each feature `f=<size>/<feature>`: {"4096/17": "..."}; what does not exist is left out."""
    with state.database.cursor() as cursor:
        keys = [parsed_key(text) for text in request.query_params.getlist("f")[:MAX_HINTS]]
        texts = short_explanations(cursor, [key for key in keys if key is not None])
    return JSONResponse({f"{key.size}/{key.feature}": text for key, text in texts.items()})


def _groups(rows: list[Row], group_of: Any, groups: list[tuple[str, str]]) -> dict[str, Any]:
    of = [group_of(row) for row in rows]
    named = [{"label": label, "colour": colour, "n": of.count(at)} for at, (label, colour) in enumerate(groups)]
    return {"groups": named, "of": of}


def _score(row: Row) -> int:
    return 0 if row["specificity"] is None else 1 + sum(row["specificity"] >= bound for bound in (0.5, 1.5, 2.5))


def _source(row: Row, sources: list[str]) -> int:
    mostly = row["top_source"] in sources and row["top_source_share"] >= MOSTLY
    return 1 + sources.index(row["top_source"]) if mostly else 0


def _density(row: Row) -> int:
    return 1 + sum(row["density"] > bound for bound in (1e-4, 1e-3, 1e-2)) if row["alive"] else 0
