"""A world for case studies that reads what a test planted."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl

from sae_pipeline.study_survey import CaseStudies
from sae_pipeline.survey.cases.bank import Banks
from sae_pipeline.survey.cases.case import World
from sae_pipeline.survey.cases.reading import Pooled, Reading


def planted_world(value_IF: np.ndarray, tmp_path) -> World:
    """A world that reads the given activations whatever the texts are; every feature is live and as dense as every other."""
    n_units = value_IF.shape[1]
    pl.DataFrame(
        {"feature": range(n_units), "alive": [True] * n_units, "density": [0.01] * n_units, "max_activation": [1.0] * n_units}
    ).write_parquet(tmp_path / "features.parquet")
    pooled = Pooled(value_IF, value_IF)
    lm, sae, unread = SimpleNamespace(chat=lambda turn: [0, 1]), SimpleNamespace(n_features=n_units), None
    world = World(*cast(Any, (lm, Banks(*cast(Any, (sae, unread))), unread, unread, tmp_path, CaseStudies())))
    object.__setattr__(world, "read", lambda texts, what: Reading(pooled, Pooled(0 * value_IF, 0 * value_IF), value_IF))
    return world
