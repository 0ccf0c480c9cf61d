"""The null of completeness: random directions, as many as the live features and of their densities, the best per word alike.

Every direction is a candidate of every word. To hold all of them against all tokens would take minutes, so the choice has two
steps: a drawn part of the train tokens ranks all directions for each word; the best few of each word are then thresholded on all
train tokens to the exact density of their matched feature, and go through the rule of the features (`best_units`).

Shapes: N tokens, S sampled train tokens, F directions, B directions of a block, K shortlisted, C words, M mentions, Z tokens of
mentions, D model width.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.progress import track
from sae_pipeline.steering.interventions import random_directions
from sae_pipeline.survey.completeness.mentions import Mentions
from sae_pipeline.survey.completeness.presence import best_units, unit_chunks

TOKENS_AT_ONCE, DIRECTIONS_AT_ONCE = 16_384, 512
N_SAMPLE_TOKENS = 65_536  # on which thresholds are estimated
N_MENTIONS = 200  # of each word, by which the directions are ranked
N_SHORTLISTED = 8  # directions of each word that are looked at on all tokens


def best_directions(
    reader: ActivationReader, mentions: Mentions, scored_C: np.ndarray, n_matched_F: np.ndarray, seed: int
) -> pl.DataFrame:
    """What `best_units` says of `len(n_matched_F)` random directions, direction i with `n_matched_F[i]` train activations.

    `scored_C`: the words (indices) that count. `unit` is the number of the direction.
    """
    if not len(scored_C) or not len(n_matched_F):
        return best_units((), mentions)
    directions_FD = random_directions(len(n_matched_F), reader.d_model, torch.Generator().manual_seed(seed))
    n_train = len(reader.token_index("train"))
    ranking = _Ranking.of(reader, mentions, scored_C, seed)
    short_K, least_K = ranking.shortlist(directions_FD, n_matched_F, n_train)
    found = best_units(unit_chunks(_thresholded(reader, directions_FD[short_K], n_matched_F[short_K], least_K)), mentions)
    return found.with_columns(unit=pl.Series(short_K[found["unit"].to_numpy()])).filter(pl.col("word").is_in(scored_C.tolist()))


@dataclass(frozen=True)
class _Ranking:
    """The drawn train tokens: `x_SD` of the sample, `x_ZD` of the mentions. A mention begins at `mention_M` of Z, those of a word
    at `word_C` of M and `token_C` of Z; they are drawn from `n_mentions_C`.
    """

    x_SD: Tensor
    x_ZD: Tensor
    mention_M: np.ndarray
    word_C: np.ndarray
    token_C: np.ndarray
    n_mentions_C: np.ndarray

    @classmethod
    def of(cls, reader: ActivationReader, mentions: Mentions, scored_C: np.ndarray, seed: int) -> Self:
        random = np.random.default_rng([seed, 3])
        train_N = reader.token_index("train").numpy()
        sample_S = np.sort(random.permutation(len(train_N))[:N_SAMPLE_TOKENS])
        drawn, n_mentions = [], []
        for word in scored_C.tolist():
            mine = np.flatnonzero((mentions.word_M == word) & mentions.train_M)
            drawn.append(np.sort(random.permutation(mine)[:N_MENTIONS]))
            n_mentions.append(len(mine))
        place_M = np.full(len(mentions.word_M), -1)
        chosen_M = np.concatenate([*drawn, np.zeros(0, np.int64)])
        place_M[chosen_M] = np.arange(len(chosen_M))
        token_Z = train_N[(mentions.mention_N[train_N] >= 0)]
        token_Z = token_Z[place_M[mentions.mention_N[token_Z]] >= 0]
        of_Z = place_M[mentions.mention_N[token_Z]]
        order_Z = np.argsort(of_Z, kind="stable")
        mention_M = np.searchsorted(of_Z[order_Z], np.arange(len(chosen_M)))
        word_C = np.cumsum([0, *(len(each) for each in drawn[:-1])])

        def scaled(token: np.ndarray) -> Tensor:
            return reader.scaled(reader.gather(torch.from_numpy(token)))

        return cls(
            scaled(train_N[sample_S]), scaled(token_Z[order_Z]), mention_M, word_C, mention_M[word_C], np.array(n_mentions)
        )  # fmt: skip

    def shortlist(self, directions_FD: Tensor, n_matched_F: np.ndarray, n_train: int) -> tuple[np.ndarray, np.ndarray]:
        """(K directions that are among the best of any word, for each a value below which its threshold hardly ever lies)."""
        best_f1_CK = np.full((len(self.word_C), N_SHORTLISTED), -1.0)
        best_CK = np.zeros((len(self.word_C), N_SHORTLISTED), np.int64)
        least_F = np.zeros(len(n_matched_F), np.float32)
        blocks = range(0, len(n_matched_F), DIRECTIONS_AT_ONCE)
        for first in track(blocks, "completeness: random directions", unit="blocks"):
            block = slice(first, first + DIRECTIONS_AT_ONCE)
            threshold_B, least_F[block] = self._thresholds(directions_FD[block], n_matched_F[block] / n_train)
            f1_CB = self._f1(directions_FD[block], threshold_B, n_matched_F[block])
            f1 = np.concatenate([best_f1_CK, f1_CB], axis=1)
            number = np.concatenate([best_CK, np.broadcast_to(first + np.arange(f1_CB.shape[1]), f1_CB.shape)], axis=1)
            order = np.argsort(-f1, axis=1, kind="stable")[:, :N_SHORTLISTED]
            best_f1_CK, best_CK = np.take_along_axis(f1, order, 1), np.take_along_axis(number, order, 1)
        short_K = np.unique(best_CK[best_f1_CK >= 0])
        return short_K, least_F[short_K]

    def _thresholds(self, directions_BD: Tensor, density_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(estimated threshold, one that lies below the exact one but for a chance of some 1e-5), both from the sample."""
        n = len(self.x_SD)
        expected_B = density_B * n
        ranks = [np.clip(np.ceil(each), 1, n).astype(int) for each in (expected_B, expected_B + 4 * np.sqrt(expected_B) + 4)]
        rows = (directions_BD @ self.x_SD.T).numpy()
        both = [np.partition(row, [n - low, n - rank])[[n - rank, n - low]] for row, rank, low in zip(rows, *ranks, strict=True)]
        return np.array([pair[0] for pair in both]), np.array([pair[1] for pair in both], np.float32)

    def _f1(self, directions_BD: Tensor, threshold_B: np.ndarray, n_active_B: np.ndarray) -> np.ndarray:
        """Estimated F1 of every word and direction: `sae_pipeline.survey.completeness.presence` says what it is."""
        fires_ZB = (self.x_ZD @ directions_BD.T).numpy() > threshold_B
        hit_MB = np.logical_or.reduceat(fires_ZB, self.mention_M)
        n_drawn_C = np.diff([*self.word_C, len(self.mention_M)])[:, None]
        n_token_CB = np.add.reduceat(fires_ZB, self.token_C, dtype=np.int32) * (self.n_mentions_C[:, None] / n_drawn_C)
        recall_CB = np.add.reduceat(hit_MB, self.word_C, dtype=np.int32) / n_drawn_C
        precision_CB = n_token_CB / np.maximum(n_active_B, np.maximum(n_token_CB, 1))
        return 2 * precision_CB * recall_CB / np.maximum(precision_CB + recall_CB, 1e-12)


def _thresholded(
    reader: ActivationReader, directions_KD: Tensor, n_matched_K: np.ndarray, least_K: np.ndarray
) -> dict[str, SparseActivations]:
    """Each direction active on its `n_matched_K` strongest train tokens, and above the same threshold on held-out ones."""
    above = _active(reader, "train", directions_KD, least_K)
    threshold_K = least_K.copy()
    for unit, n in enumerate(n_matched_K.tolist()):
        _, value = above.of(unit)
        if len(value) > n:
            threshold_K[unit] = np.partition(value, len(value) - n - 1)[len(value) - n - 1]
    kept = above.value > threshold_K[above.unit_Z]
    train = SparseActivations.from_sorted(above.unit_Z[kept], above.token_index[kept], above.value[kept], above.n_units)
    return {"train": train, "held_out": _active(reader, "held_out", directions_KD, threshold_K)}


def _active(reader: ActivationReader, split: str, directions_KD: Tensor, threshold_K: np.ndarray) -> SparseActivations:
    """Where the directions lie above their thresholds, in one pass over the tokens; only these pairs are kept."""
    unit, token, value = [], [], []
    for index_N, r_ND in reader.stream(split, TOKENS_AT_ONCE):
        value_NK = (reader.scaled(r_ND) @ directions_KD.T).numpy()
        row, column = np.nonzero(value_NK > threshold_K)
        unit.append(column)
        token.append(index_N.numpy()[row])
        value.append(value_NK[row, column])
    return SparseActivations.from_token_order(
        np.concatenate(unit), np.concatenate(token), np.concatenate(value), len(threshold_K)
    )
