"""F1 of every unit against labels of tokens, by counting: a unit fires or not, a token has the label or not.

Shapes: N tokens of a batch, L labels, F units, G groups (documents or texts).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.survey.cases.bank import Banks


@dataclass(frozen=True)
class Labelled:
    """A batch of tokens: raw activations, which labels each has, and the group that it belongs to."""

    r_ND: Tensor
    label_NL: np.ndarray
    group_N: np.ndarray


def f1(hits: np.ndarray, fires: np.ndarray, total: np.ndarray) -> np.ndarray:
    """2 hits / (fires + total): the harmonic mean of precision and recall; 0 where neither occurs."""
    both = fires + total
    return np.divide(2.0 * hits, both, out=np.zeros(np.broadcast(hits, both).shape), where=both > 0)


def f1_of_all(banks: Banks, batches: Iterable[Labelled], n_labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(F1 of the features, F1 of the random directions, both L x F; tokens of each label, L)."""
    n_features = banks.features.n_features
    hits = {name: np.zeros((n_labels, n_features)) for name in ("features", "null")}
    fires = {name: np.zeros(n_features) for name in hits}
    total_L = np.zeros(n_labels)
    for batch in batches:
        total_L += batch.label_NL.sum(axis=0)
        for name, bank in (("features", banks.features), ("null", banks.null)):
            codes = bank.encode_sparse(batch.r_ND)
            token_P, feature_P = codes.token.cpu().numpy(), codes.feature.cpu().numpy()
            fires[name] += np.bincount(feature_P, minlength=n_features)
            for label in range(n_labels):
                hits[name][label] += np.bincount(feature_P[batch.label_NL[token_P, label]], minlength=n_features)
    features, null = (f1(hits[name], fires[name], total_L[:, None]) for name in ("features", "null"))
    return features, null, total_L


@dataclass(frozen=True)
class Tally:
    """Counts by group of one unit per label: `hits_GL`, `fires_GL`, `total_GL`. Groups can be resampled."""

    hits_GL: np.ndarray
    fires_GL: np.ndarray
    total_GL: np.ndarray

    def f1(self, at: np.ndarray) -> np.ndarray:
        """F1 of every label over the groups `at` (a group may occur more than once). L."""
        return f1(self.hits_GL[at].sum(axis=0), self.fires_GL[at].sum(axis=0), self.total_GL[at].sum(axis=0))


def tally(arms: Sequence[tuple[SparseAutoencoder, Sequence[int]]], batches: Iterable[Labelled], n_groups: int) -> list[Tally]:
    """Counts of the chosen units (one per label) of each arm, by group. A bank of several arms is encoded once."""
    n_labels = len(arms[0][1])
    counted = [Tally(*(np.zeros((n_groups, n_labels)) for _ in range(3))) for _ in arms]
    for batch in batches:
        fired: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for bank, _ in arms:
            if id(bank) not in fired:
                codes = bank.encode_sparse(batch.r_ND)
                fired[id(bank)] = codes.token.cpu().numpy(), codes.feature.cpu().numpy()
        for (bank, units), counts in zip(arms, counted, strict=True):
            token_P, feature_P = fired[id(bank)]
            for label, unit in enumerate(units):
                fired_P = token_P[feature_P == unit]
                hit_P = fired_P[batch.label_NL[fired_P, label]]
                np.add.at(counts.hits_GL[:, label], batch.group_N[hit_P], 1)
                np.add.at(counts.fires_GL[:, label], batch.group_N[fired_P], 1)
            np.add.at(counts.total_GL, batch.group_N, batch.label_NL)
    return counted
