"""Which units are explained and scored in one size: the features, and the controls that stand beside them.

Both builders draw from here, so that explanations and scores speak of the same units.
"""

from pathlib import Path

import numpy as np

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.interpret.token_stats import MIN_EXAMPLES
from sae_pipeline.interpret.units import Units, mlp_neurons, random_directions, sae_features
from sae_pipeline.study import Score


def units_of(feature_stats: Path, reader: ActivationReader, score: Score, only: list[int] | None = None) -> list[Units]:
    """Features first, then `score.n_controls` random directions and MLP neurons, each as dense as one random live feature.

    `only` narrows the features that are explained; the controls do not depend on it.
    """
    features = sae_features(feature_stats)
    matched = _matched_counts(features, score)
    controls = [random_directions(reader, matched, score.seed), mlp_neurons(reader, matched, score.seed)]
    if only is not None:
        chosen = np.intersect1d(features.explained, only)
        features = Units(features.unit, features.ids, features.train, features.held_out, chosen)
    return [features, *(units for units in controls if len(units.ids))]


def scored_columns(features: Units, score: Score) -> list[int]:
    """Columns of the features to score: those the study names, else a seeded sample of the live ones."""
    if score.features is not None:
        return np.intersect1d(features.explained, score.features).tolist()
    n = min(score.n_features, len(features.explained))
    return np.sort(np.random.default_rng([score.seed, 2]).choice(features.explained, n, replace=False)).tolist()


def _matched_counts(features: Units, score: Score) -> np.ndarray:
    """Train activations of a seeded sample of live features (with replacement only if there are too few)."""
    count_U = features.train.count_U[features.explained]
    usable = count_U[count_U >= MIN_EXAMPLES]
    if not len(usable):
        return np.empty(0, dtype=np.int64)
    generator = np.random.default_rng([score.seed, 3])
    return generator.choice(usable, score.n_controls, replace=len(usable) < score.n_controls)
