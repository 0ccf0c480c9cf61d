"""Concept words and where the corpus mentions them.

A mention is one whole word of the text, in any case, whose last token is unmasked; its positions are all of its tokens.
Frequency is mentions per unmasked training token.

Shapes: N corpus tokens, C concepts (words, over all families), M mentions.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from sae_pipeline.interpret.tokens import TokenTable

FAMILIES = Path(__file__).with_name("families")
PREDICTION = Path(__file__).with_name("prediction.yaml")


@dataclass(frozen=True)
class Concept:
    """A word of a family."""

    family: str
    word: str


def read_concepts() -> tuple[list[Concept], list[Path]]:
    """Every word of every committed family, and the files."""
    files = sorted(FAMILIES.glob("*.yaml"))
    read = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    return [Concept(each["family"], word) for each in read for word in each["words"]], files


@dataclass(frozen=True)
class Mentions:
    """Mention m is of word `word_M[m]` of the table's `words`; `mention_N` is the mention that a token belongs to, or -1."""

    words: tuple[str, ...]
    mention_N: np.ndarray
    word_M: np.ndarray
    train_M: np.ndarray

    @classmethod
    def find(cls, tokens: TokenTable, concepts: list[Concept]) -> "Mentions":
        """Of all concepts; a word that stands in two families is found once."""
        words = tuple(sorted({concept.word for concept in concepts}))
        place = {word: i for i, word in enumerate(words)}
        of_word = np.array([place.get(word, -1) for word in tokens.words], np.int64)
        end = np.flatnonzero((tokens.word_end_N >= 0) & tokens.kept_N)
        word_M = of_word[tokens.word_end_N[end]]
        end, word_M = end[word_M >= 0], word_M[word_M >= 0]
        mention_N = np.full(tokens.n_tokens, -1, np.int64)
        mention_N[end] = np.arange(len(end))
        # Back over the other tokens of the word: they follow one another and end in the same word.
        at, mine = end, np.arange(len(end))
        while len(at):
            before = at - 1
            inside = (before >= 0) & (before // tokens.context == at // tokens.context)
            before, mine = before[inside], mine[inside]
            same = (tokens.word_of_N[before] == tokens.word_end_N[end[mine]]) & (tokens.word_end_N[before] < 0)
            at, mine = before[same], mine[same]
            mention_N[at] = mine
        return cls(words, mention_N, word_M, ~tokens.held_out_N[end])

    def shuffled(self, seed: int) -> "Mentions":
        """The same mentions with their words dealt out anew among all of a split: each word keeps its number."""
        random, word_M = np.random.default_rng(seed), self.word_M.copy()
        for part in (self.train_M, ~self.train_M):
            word_M[part] = random.permutation(word_M[part])
        return Mentions(self.words, self.mention_N, word_M, self.train_M)

    def count(self, split: str) -> np.ndarray:
        """Mentions of every word in a split."""
        return np.bincount(self.word_M[self.train_M == (split == "train")], minlength=len(self.words))
