"""Which units are explained and scored in one size: the features, and the controls that stand beside them."""

import numpy as np

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.interpret.token_stats import MIN_EXAMPLES
from sae_pipeline.interpret.units import Units, mlp_neurons, random_directions
from sae_pipeline.study import Score

CONTROLS_FILE = "control_units.safetensors"  # in the explanations artefact: what the controls' activations are


def control_units(features: Units, reader: ActivationReader, score: Score) -> list[Units]:
    """`score.n_controls` random directions and as many MLP neurons, each as dense as one random live feature."""
    count_U = features.train.count_U[features.explained]
    usable = count_U[count_U >= MIN_EXAMPLES]
    if not len(usable):
        return []
    random = np.random.default_rng([score.seed, 3])
    matched = random.choice(usable, score.n_controls, replace=len(usable) < score.n_controls)
    units = [random_directions(reader, matched, score.seed), mlp_neurons(reader, matched, score.seed)]
    return [each for each in units if len(each.ids)]


def scored_columns(features: Units, score: Score) -> list[int]:
    """Columns of the features to score: those the study names, else a seeded sample of the live ones."""
    if score.features is not None:
        return np.intersect1d(features.explained, score.features).tolist()
    n = min(score.n_features, len(features.explained))
    return np.sort(np.random.default_rng([score.seed, 2]).choice(features.explained, n, replace=False)).tolist()
