"""Which units are explained and scored in one size: the features, and the controls that stand beside them."""

from pathlib import Path

import numpy as np

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.features.intervals import interval_of
from sae_pipeline.interpret.random_model import random_model_units
from sae_pipeline.interpret.token_stats import MIN_EXAMPLES
from sae_pipeline.interpret.units import Units, mlp_neurons, random_directions
from sae_pipeline.study import Score

MIN_CLEAR = 200  # train activations of a feature that is chosen by rule
CONTROLS_FILE = "control_units.safetensors"  # in the explanations artefact: what the controls' activations are


def control_units(features: Units, reader: ActivationReader, score: Score, random_model: Path | None) -> list[Units]:
    """`score.n_controls` random directions, as many MLP neurons and features of the random model, each as dense as one random
    live feature (the last as nearly as there are any).

    `random_model`: that artefact; without it, that control is left out.
    """
    count_U = features.train.count_U[features.explained]
    usable = count_U[count_U >= MIN_EXAMPLES]
    if not len(usable):
        return []
    random = np.random.default_rng([score.seed, 3])
    matched = random.choice(usable, score.n_controls, replace=len(usable) < score.n_controls)
    units = [random_directions(reader, matched, score.seed), mlp_neurons(reader, matched, score.seed)]
    if random_model is not None:
        units += random_model_units(random_model, matched / len(reader.token_index("train")), reader)
    return [each for each in units if len(each.ids)]


def scored_columns(features: Units, score: Score) -> list[int]:
    """Columns of the features to score: those the study names, else a seeded sample of the live ones; and the chosen ones."""
    return sorted({*_sample(features, score), *chosen_columns(features, score)})


def chosen_columns(features: Units, score: Score) -> list[int]:
    """Columns of the features to look at closely: those the study names, or as many as it says of the scored ones, by a rule.

    The rule reads train activations only, so that nobody chooses by how well an explanation fits: of the features with at least
    200 of them, those that fill most intervals, and then those with the largest mean activation in units of the maximum.
    """
    if not isinstance(score.chosen, int):
        return np.intersect1d(features.explained, score.chosen or []).astype(int).tolist()
    return sorted(sorted(_sample(features, score), key=lambda column: _clarity(features, column), reverse=True)[: score.chosen])


def _clarity(features: Units, column: int) -> tuple[bool, int, float]:
    _, value = features.train.of(column)
    if not len(value):
        return False, 0, 0.0
    maximum = float(value.max())
    return len(value) >= MIN_CLEAR, len(np.unique(interval_of(value, maximum))), float(value.mean()) / maximum


def _sample(features: Units, score: Score) -> list[int]:
    if score.features is not None:
        columns = np.intersect1d(features.explained, score.features)
    else:
        n = min(score.n_features, len(features.explained))
        columns = np.random.default_rng([score.seed, 2]).choice(features.explained, n, replace=False)
    return columns.astype(int).tolist()
