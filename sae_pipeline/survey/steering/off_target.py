"""Row 34: what steering towards one concept does to the words of every other, as a matrix.

Shape legend: I concepts steered, J concepts looked for.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from sae_pipeline.survey.steering.concepts import Topic
from sae_pipeline.survey.steering.methods import BASELINE, CLAMP, RANDOM

EFFECTS = "steering_effects"
COMPARED = (CLAMP, RANDOM)


def effects(texts: pl.DataFrame, report: pl.DataFrame, topics: Sequence[Topic], method: str) -> np.ndarray:
    """I x J: share of the texts steered towards concept i that name concept j, minus the share of unsteered ones."""
    chosen = report.filter(pl.col("control") == method).select("concept", "factor")
    steered = texts.filter((pl.col("control") == method) & (pl.col("half") == "report")).join(chosen, on=["concept", "factor"])
    plain = texts.filter((pl.col("control") == BASELINE) & (pl.col("half") == "report"))["completion"].to_list()
    effect_IJ = np.zeros((len(topics), len(topics)))
    for i, steered_to in enumerate(topics):
        own = steered.filter(pl.col("concept") == steered_to.name)["completion"].to_list()
        for j, looked_for in enumerate(topics):
            said = [np.mean([looked_for.concept.in_text(text) for text in part]) for part in (own, plain)]
            effect_IJ[i, j] = said[0] - said[1]
    return effect_IJ


def on_target(effect_IJ: np.ndarray) -> np.ndarray:
    """Whether each of the diagonal lies above the 95th percentile of everything off it, 0 or 1 (checklist, row 34)."""
    off = effect_IJ[~np.eye(len(effect_IJ), dtype=bool)]
    return (np.diag(effect_IJ) > np.quantile(off, 0.95)).astype(float) if len(off) else np.zeros(len(effect_IJ))


def effect_rows(by_method: dict[str, np.ndarray], topics: Sequence[Topic], size: int) -> pl.DataFrame:
    """Table `steering_effects`: every entry of the matrices `by_method`."""
    names = [topic.name for topic in topics]
    return pl.DataFrame(
        [
            {"size": size, "method": method, "concept": names[i], "looked_for": names[j], "effect": float(effect)}
            for method, effect_IJ in by_method.items()
            for (i, j), effect in np.ndenumerate(effect_IJ)
        ]
    )
