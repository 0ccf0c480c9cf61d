"""`/attribute`: which features decide between two next tokens, as a grid of tokens and features; a click switches a cell off."""

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from sae_pipeline.browser.feature_data import FeatureKey, short_explanations
from sae_pipeline.browser.parameters import MAX_TEXT, Attributing, Refused, parse
from sae_pipeline.browser.state import State
from sae_pipeline.report.tokens import level, visible

if TYPE_CHECKING:
    from sae_pipeline.attribution.attribute import Attributed

N_COLUMNS = 12
EXAMPLE = {"prompt": "The keys to the cabinet", "target": " are", "baseline": " is"}


def attribute_form(request: Request, state: State) -> Response:
    """The form, filled from the URL."""
    query = request.query_params
    asked = {name: (query.get(name) or example)[:MAX_TEXT] for name, example in EXAMPLE.items()}
    return state.page("attribute.html", size=state.size_of(query.get("size")), asked=asked, max_text=MAX_TEXT, grid=None)


def attribute_page(form: dict[str, Any], state: State) -> Response:
    """The grid, and what switching off the cell that was clicked does."""
    asked: Attributing = parse(Attributing, form)
    if asked.size not in state.sizes:
        raise Refused(f"There is no size {asked.size}; sizes are {', '.join(map(str, state.sizes))}.")
    with state.playground.turn():
        found, tokens, effect, is_exact = state.playground.attribute(asked)
    grid = _grid(found, tokens)
    with state.database.cursor() as cursor:
        texts = short_explanations(cursor, [FeatureKey(asked.size, feature) for feature in grid["features"]])
    columns = [
        {"key": FeatureKey(asked.size, feature), "text": texts[FeatureKey(asked.size, feature)]} for feature in grid["features"]
    ]
    off = None
    if asked.cell is not None and effect is not None:
        position, feature = asked.cell
        off = {"key": FeatureKey(asked.size, feature), "token": visible(tokens[position]), "effect": effect}
    return state.page(
        "attribute.html", size=asked.size, asked=asked.model_dump(), max_text=MAX_TEXT, grid=grid, columns=columns, off=off,
        difference=found.logit_difference, rank=found.target_rank, is_exact=is_exact, cell=asked.cell,
    )  # fmt: skip


def _grid(found: "Attributed", tokens: list[str]) -> dict[str, Any]:
    """The features of largest attribution anywhere in the prompt as columns, tokens as rows."""
    value = {
        (position, feature): attribution
        for position, feature, attribution in zip(
            found.position_P.tolist(), found.feature_P.tolist(), found.attribution_P.tolist(), strict=True
        )
    }
    largest = max((abs(each) for each in value.values()), default=0.0)
    ranked = sorted(value, key=lambda pair: (-abs(value[pair]), pair))
    features = list(dict.fromkeys(feature for _, feature in ranked))[:N_COLUMNS]
    rows = [
        {
            "position": position,
            "token": visible(token),
            "masked": bool(found.masked_T[position]),
            "cells": [
                {"feature": feature, "value": value.get((position, feature)),
                 "level": level(abs(value.get((position, feature), 0.0)), largest)}
                for feature in features
            ],
        }
        for position, token in enumerate(tokens)
    ]  # fmt: skip
    return {"features": features, "rows": rows, "n_pairs": len(value)}
