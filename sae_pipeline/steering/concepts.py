"""Concept terms: the words that stand for a feature, read from training contexts only, never from its logit effects.

A feature's terms are the words around its training activations that are over-represented against the whole training text, by
weighted log-odds with an informative Dirichlet prior (Monroe et al. 2008, 'Fightin' Words'). The window reaches further ahead
than back, because what a feature makes the model say stands after the token on which it fires.

Shape legend: B blocks, T positions, N tokens, A activations of one feature, W words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from sae_pipeline.steering.prompts import excluded_words, words_of

TOKENS_BACK, TOKENS_AHEAD = 2, 6
PRIOR_WORDS = 50.0  # strength of the prior, in words
MIN_Z = 2.0
MIN_DOCUMENTS = 3
MIN_TERM_SHARE = 0.05  # of the feature's activation mass, within whose windows a term must occur


@dataclass(frozen=True)
class Concept:
    """`terms`, best first. `coverage`: share of the activation mass with a term in its window; `own`: on a term itself."""

    terms: tuple[str, ...]
    coverage: float = 0.0
    own: float = 0.0

    def in_text(self, text: str) -> bool:
        """Whether a term occurs as a word of `text` (case and plural s aside)."""
        return not set(self.terms).isdisjoint(words_of(text))


class CorpusWords:
    """The word to which each token belongs, for a whole corpus.

    `word_N` int32: index into `words`, -1 where the token belongs to no word of three letters or more. `block_N`, `doc_N` say
    where windows end. `background_W`: occurrences of each word in the training split.
    """

    def __init__(
        self, word_N: np.ndarray, first_N: np.ndarray, words: list[str], doc_N: np.ndarray, context: int, train_B: np.ndarray
    ) -> None:
        self.word_N, self.first_N, self.words, self.doc_N, self.context = word_N, first_N, words, doc_N, context
        counted = first_N & (word_N >= 0) & np.repeat(train_B, context)
        self.background_W = np.bincount(word_N[counted], minlength=len(words)).astype(np.float64)
        excluded = excluded_words()
        self.allowed_W = np.array([word not in excluded for word in words], bool)

    @classmethod
    def build(
        cls,
        token_ids_BT: np.ndarray,
        doc_ids_BT: np.ndarray,
        held_out_B: np.ndarray,
        token_text: Sequence[str],
        decode: Callable[[list[int]], str],
    ) -> Self:
        """Cut every block into words. `token_text` by token id: a token that starts with a letter continues a word."""
        # `\\xe2`: a piece of a character; scripts without a token of their own are made of these.
        continues_V = np.array([bool(text) and (text[0].isalpha() or text.startswith("\\x")) for text in token_text], bool)
        context = token_ids_BT.shape[1]
        ids_N, doc_N = token_ids_BT.reshape(-1), doc_ids_BT.reshape(-1)
        first_N = ~continues_V[ids_N]
        first_N[::context] = True
        first_N[1:] |= doc_N[1:] != doc_N[:-1]
        starts = np.flatnonzero(first_N)
        ends = np.append(starts[1:], len(ids_N))
        known: dict[bytes, int] = {}
        words: dict[str, int] = {}
        word_of_group = np.empty(len(starts), np.int32)
        for group, (start, end) in enumerate(zip(starts, ends, strict=True)):
            key = ids_N[start:end].tobytes()
            if key not in known:
                found = words_of(decode(ids_N[start:end].tolist()))
                known[key] = words.setdefault(found[0], len(words)) if found else -1
            word_of_group[group] = known[key]
        word_N = np.repeat(word_of_group, ends - starts)
        return cls(word_N, first_N, list(words), doc_N, context, ~held_out_B)

    def concept(self, token_index_A: np.ndarray, value_A: np.ndarray, n_terms: int, strict: bool = True) -> Concept:
        """The terms of a feature with these training activations; none when its contexts share no words.

        Not `strict`: when no word reaches the thresholds, the best words of its contexts, whatever their evidence.
        """
        if not len(token_index_A):
            return Concept(())
        weight_A = np.asarray(value_A, np.float64) / value_A.max()
        activation_P, word_P = self._windows(token_index_A)
        if not len(word_P):
            return Concept(())
        mass_W = np.bincount(word_P, weights=weight_A[activation_P], minlength=len(self.words))
        z_W = log_odds_z(mass_W, self.background_W)
        _, word_Q = _distinct_pairs(self.doc_N[token_index_A][activation_P], word_P, len(self.words))
        documents_W = np.bincount(word_Q, minlength=len(self.words))
        share_W = mass_W / weight_A.sum()
        good_W = self.allowed_W & (z_W >= MIN_Z) & (documents_W >= MIN_DOCUMENTS) & (share_W >= MIN_TERM_SHARE)
        if not strict and not good_W.any():
            good_W = self.allowed_W & (mass_W > 0)
        good = np.flatnonzero(good_W)
        chosen = good[np.argsort(-z_W[good], kind="stable")][:n_terms].tolist()
        covered = np.unique(activation_P[np.isin(word_P, chosen)])
        own_A = np.isin(self.word_N[token_index_A], chosen)
        coverage, own = (float(weight_A[part].sum() / weight_A.sum()) for part in (covered, own_A))
        return Concept(tuple(self.words[w] for w in chosen), coverage, own)

    def _windows(self, token_index_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(activation, word) of every word in the windows, once per activation."""
        index_AK = token_index_A[:, None] + np.arange(-TOKENS_BACK, TOKENS_AHEAD + 1)[None]
        inside = (index_AK >= 0) & (index_AK < len(self.word_N))
        index_AK = np.where(inside, index_AK, 0)
        inside &= index_AK // self.context == (token_index_A // self.context)[:, None]
        inside &= self.doc_N[index_AK] == self.doc_N[token_index_A][:, None]
        word_AK = np.where(inside, self.word_N[index_AK], -1)
        activation_AK = np.broadcast_to(np.arange(len(token_index_A))[:, None], word_AK.shape)
        return _distinct_pairs(activation_AK[word_AK >= 0], word_AK[word_AK >= 0], len(self.words))


def _distinct_pairs(first_P: np.ndarray, word_P: np.ndarray, n_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Each (first, word) pair once, ordered. One integer per pair: sorting rows of two is 20 x slower."""
    key_P = np.unique(first_P.astype(np.int64) * n_words + word_P)
    return key_P // n_words, key_P % n_words


def log_odds_z(count_W: np.ndarray, background_W: np.ndarray) -> np.ndarray:
    """z of log-odds against the background, prior proportional to it (Monroe et al. 2008, equations 16, 19 and 22)."""
    prior_W = PRIOR_WORDS * (background_W + 0.5) / (background_W + 0.5).sum()
    own_W, other_W = count_W + prior_W, background_W + prior_W
    delta_W = np.log(own_W / (own_W.sum() - own_W)) - np.log(other_W / (other_W.sum() - other_W))
    return delta_W / np.sqrt(1 / own_W + 1 / other_W)
