"""Nearest features of a feature, in its own size and in the others: from the survey's table, or computed while one waits."""

from typing import Any

from sae_pipeline.browser.database import Cursor, Row
from sae_pipeline.browser.feature_data import FeatureKey, short_explanations
from sae_pipeline.browser.state import State
from sae_pipeline.errors import UserError
from sae_pipeline.survey.neighbours import decoder_row, nearest_to


def relatives(state: State, cursor: Cursor, key: FeatureKey, n: int) -> dict[str, Any]:
    """The `n` nearest per size, or the reason why there are none: {"sizes": [(size, [{key, cosine, text}])], "why"}."""
    try:
        found = _from_table(cursor, key, n) or _from_weights(state, key, n)
    except UserError as error:
        return {"sizes": [], "why": str(error)}
    texts = short_explanations(cursor, [each for each, _ in found])
    sizes = sorted({each.size for each, _ in found})
    return {
        "sizes": [
            (size, [{"key": each, "cosine": cosine, "text": texts[each]} for each, cosine in found if each.size == size])
            for size in sizes
        ],
        "why": "",
    }


def likeness(cursor: Cursor) -> list[Row]:
    """How alike the sizes are: per pair the median cosine of the nearest relative, and the shares above 0.5 and below 0.3.

    Living features only. Empty before the survey.
    """
    return cursor.rows(
        """
        select size, neighbour_size, median(cosine) as median_cosine, avg((cosine >= 0.5)::int) as share_close,
            avg((cosine < 0.3)::int) as share_far, count(*) as n
        from feature_neighbours join features using (size, feature)
        where rank = 1 and size <> neighbour_size and alive
        group by size, neighbour_size order by size, neighbour_size
        """
    )


def _from_table(cursor: Cursor, key: FeatureKey, n: int) -> list[tuple[FeatureKey, float]]:
    rows = cursor.rows(
        "select neighbour_size, neighbour, cosine from feature_neighbours"
        " where size = $size and feature = $feature and rank <= $n order by neighbour_size, rank",
        **key.where, n=n,
    )  # fmt: skip
    return [(FeatureKey(row["neighbour_size"], row["neighbour"]), row["cosine"]) for row in rows]


def _from_weights(state: State, key: FeatureKey, n: int) -> list[tuple[FeatureKey, float]]:
    folder = state.root / "sae"
    direction_D = decoder_row(folder / str(key.size), key.feature)
    return [
        (FeatureKey(size, feature), cosine)
        for size in state.sizes
        if (folder / str(size) / "weights.safetensors").is_file()
        for feature, cosine in nearest_to(folder / str(size), direction_D, n, without=key.feature if size == key.size else None)
    ]
