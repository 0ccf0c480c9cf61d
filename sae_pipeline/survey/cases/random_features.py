"""Random features: live features of the same SAE, as dense as given ones and drawn without a search.

Random directions answer whether an unlearned direction would have done as well; random features whether any other feature would
have. They cannot go through the search, which over all features comes to the candidates themselves. What is repeated is the
choice among what the search proposes: groups of as many random features, of each the best on half A, reported on half B.

Shapes: F features, U given features, R groups, K features of a group.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.survey.measurement import Measurement, too_few

N_GROUPS = 20  # of detection, where another feature costs nothing: every unit has been read
IN_GROUP = 3  # as many as a clamp has candidates; a group of thousands would come to the chosen feature's like
N_NEAREST = 200
SALT = 1993  # a stream of their own: what else is drawn by the seed stays as it is
SUFFIX = "_against_random_features"
CONTROL = "random features of the same SAE and density: the mean over groups of three, the best of each chosen alike"
BESIDE_EACH = "random features of the same SAE and density, one beside each; the mean over {n} draws"


def densities(feature_stats: Path, n_features: int) -> np.ndarray:
    """Training density of every feature; 0 for one without a row. F."""
    facts = pl.read_parquet(feature_stats / "features.parquet", columns=["feature", "density"])
    density_F = np.zeros(n_features)
    density_F[facts["feature"].to_numpy()] = facts["density"].to_numpy()
    return density_F


def live_densities(feature_stats: Path, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """(training density of every feature, whether it is live: active in training and held-out), F each."""
    facts = pl.read_parquet(feature_stats / "features.parquet", columns=["feature", "alive", "max_activation"])
    density_F, live_F = densities(feature_stats, n_features), np.zeros(n_features, bool)
    live_F[facts["feature"].to_numpy()] = (facts["alive"] & (facts["max_activation"] > 0)).to_numpy()
    return density_F, live_F & (density_F > 0)


def matched(
    density_F: np.ndarray, live_F: np.ndarray, units: Sequence[int], n: int, never: Iterable[int], seed: int
) -> np.ndarray:
    """`n` random features beside each unit, of the `N_NEAREST` live ones next to it in density, U x n.

    None is one of `units` or of `never`. Those of a unit differ where there are as many; with no live feature left: U x 0.
    """
    among_F = live_F.copy()
    among_F[[*units, *never]] = False
    by_density = np.flatnonzero(among_F)
    if not len(by_density):
        return np.zeros((len(units), 0), np.int64)
    by_density = by_density[np.argsort(density_F[by_density], kind="stable")]
    n_near, drawn = min(N_NEAREST, len(by_density)), []
    for unit in units:
        place = int(np.searchsorted(density_F[by_density], density_F[unit]))
        first = min(max(place - n_near // 2, 0), len(by_density) - n_near)
        random = np.random.default_rng([seed, SALT, unit])
        drawn.append(random.choice(by_density[first : first + n_near], n, replace=n > n_near))
    return np.array(drawn, np.int64).reshape(len(units), n)


def best_of_groups(score_UF: Sequence[np.ndarray], drawn_URK: np.ndarray) -> np.ndarray:
    """Of each group the feature of largest score, by the scores of the unit that it stands beside. R x U."""
    best_UR = [
        group_RK[np.arange(len(group_RK)), score_F[group_RK].argmax(axis=1)]
        for score_F, group_RK in zip(score_UF, drawn_URK, strict=True)
    ]
    return np.array(best_UR, np.int64).reshape(len(drawn_URK), -1).T


def with_random_features(main: Measurement, beside: Mapping[str, float] | None, control: str = CONTROL) -> list[Measurement]:
    """A measurement, and the same one beside random features: the value is the same, the control and their difference are not.

    `beside`: control_value, difference and its interval; None: there was no other live feature.
    """
    other = replace(main, measurement=main.measurement + SUFFIX, control=control)
    if beside is None:
        nothing = {"control_value": None, "difference": None, "difference_low": None, "difference_high": None}
        return [main, replace(other, **nothing, **too_few("live features that the case did not choose", 0, 1))]
    fields = ("control_value", "difference", "difference_low", "difference_high")
    said = f"random features {beside['control_value']:.3g}"
    main = replace(main, why=f"{main.why}; {said}" if main.why else said)
    return [main, replace(other, **{name: beside[name] for name in fields})]
