"""`/text`: a visitor's own text, token by token: which features fire, which matter most, how well the SAE reconstructs it."""

from collections import defaultdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sae_pipeline.browser.database import Cursor
from sae_pipeline.browser.feature_data import FeatureKey, short_explanations
from sae_pipeline.browser.parameters import MAX_TEXT, Refused, Text, parse
from sae_pipeline.browser.playground import ReadToken
from sae_pipeline.browser.state import State
from sae_pipeline.report.tokens import level, visible

N_TOP = 20


def text_form(request: Request, state: State) -> Response:
    """The empty form."""
    return state.page(
        "text.html", size=state.size_of(request.query_params.get("size")), text="", tokens=[], top=[], max_text=MAX_TEXT
    )


def text_page(form: dict[str, Any], state: State) -> Response:
    """The text as the SAE sees it."""
    wanted: Text = parse(Text, form)
    size = wanted.size
    if size not in state.sizes:
        raise Refused(f"There is no size {size}; sizes are {', '.join(map(str, state.sizes))}.")
    with state.playground.turn():
        read = state.playground.read(wanted.text, size)
    with state.database.cursor() as cursor:
        known = _known(cursor, size, {feature for token in read for feature, _ in token.features})
    return state.page(
        "text.html", size=size, text=wanted.text, tokens=[_shown(token, size, known) for token in read],
        top=_top(read, size, known), max_text=MAX_TEXT,
    )  # fmt: skip


def _known(cursor: Cursor, size: int, features: set[int]) -> dict[int, tuple[float, str]]:
    """{feature: (training maximum, one line)}."""
    wanted = sorted(features)
    maxima = cursor.rows(
        "select feature, max_activation from features where size = $size and feature in (select unnest($features))",
        size=size, features=wanted,
    )  # fmt: skip
    texts = short_explanations(cursor, [FeatureKey(size, feature) for feature in wanted])
    return {row["feature"]: (row["max_activation"], texts[FeatureKey(size, row["feature"])]) for row in maxima}


def _shown(token: ReadToken, size: int, known: dict[int, tuple[float, str]]) -> dict[str, Any]:
    features = [
        {
            "key": FeatureKey(size, feature),
            "activation": value,
            "level": level(value, known[feature][0]),
            "text": known[feature][1],
        }
        for feature, value in token.features
        if feature in known
    ]
    return {
        "text": visible(token.text), "features": features, "error": token.error, "masked": token.masked,
        "level": max((feature["level"] for feature in features), default=0),
    }  # fmt: skip


def _top(read: list[ReadToken], size: int, known: dict[int, tuple[float, str]]) -> list[dict[str, Any]]:
    """Features by their largest share of the own training maximum anywhere in the text."""
    best: dict[int, tuple[float, str]] = {}
    tokens: dict[int, int] = defaultdict(int)
    for token in read:
        for feature, value in token.features:
            maximum = known.get(feature, (0.0, ""))[0]
            if maximum > 0:
                tokens[feature] += 1
                best[feature] = max(best.get(feature, (0.0, "")), (value / maximum, token.text))
    ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:N_TOP]
    return [
        {
            "key": FeatureKey(size, feature),
            "share": share,
            "token": visible(token),
            "n_tokens": tokens[feature],
            "text": known[feature][1],
        }
        for feature, (share, token) in ranked
    ]
