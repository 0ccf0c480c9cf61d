"""Parents and children: a feature of a larger SAE that points where one of a smaller SAE points, and fires only where it fires.

Shapes: C children, P parents, L links, D width, K candidates.
"""

from dataclasses import dataclass

import numpy as np

from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.survey.neighbours import nearest_features

N_CANDIDATES = 8  # parents of one child that are looked at, nearest first


@dataclass(frozen=True)
class LinkRule:
    """What makes a link. A child with fewer activations than `min_activations` is not judged."""

    min_cosine: float
    min_parent_given_child: float
    min_activations: int


@dataclass(frozen=True)
class Links:
    """One row per link; `n_judged`: children with enough activations to be judged."""

    parent_L: np.ndarray
    child_L: np.ndarray
    cosine_L: np.ndarray
    parent_given_child_L: np.ndarray
    child_given_parent_L: np.ndarray
    n_child_L: np.ndarray
    n_judged: int

    def children_of(self, n_parents: int) -> np.ndarray:
        """Number of children of every parent, P."""
        return np.bincount(self.parent_L, minlength=n_parents)


def find_links(
    parent_PD: np.ndarray, child_CD: np.ndarray, parents: SparseActivations, children: SparseActivations, rule: LinkRule
) -> Links:
    """Every pair of unit decoder rows with cosine >= `min_cosine` whose child fires on no more tokens than its parent, and on a
    share of at least `min_parent_given_child` of the same ones. `parents`, `children`: activations on held-out tokens.
    """
    n_parent_P, n_child_C = parents.count_U, children.count_U
    found: list[tuple[int, int, float, float, float, int]] = []
    for start, parent_CK, cosine_CK in nearest_features(child_CD, parent_PD, N_CANDIDATES):
        for at, k in zip(*np.nonzero(cosine_CK >= rule.min_cosine), strict=True):
            child, parent = start + int(at), int(parent_CK[at, k])
            n_child, n_parent = int(n_child_C[child]), int(n_parent_P[parent])
            if not rule.min_activations <= n_child <= n_parent:
                continue
            both = len(np.intersect1d(children.of(child)[0], parents.of(parent)[0], assume_unique=True))
            if both / n_child >= rule.min_parent_given_child:
                found.append((parent, child, float(cosine_CK[at, k]), both / n_child, both / n_parent, n_child))
    columns = [np.array(each) for each in zip(*found, strict=True)] if found else [np.empty(0, int)] * 2 + [np.empty(0)] * 4
    return Links(*columns, n_judged=int((n_child_C >= rule.min_activations).sum()))


def shuffled(child_CD: np.ndarray, seed: int) -> np.ndarray:
    """The control: the same directions, dealt out to other children, so that firing no longer belongs to them."""
    return child_CD[np.random.default_rng([seed, 81]).permutation(len(child_CD))]
