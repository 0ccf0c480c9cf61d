"""Every corpus token as flat arrays, indexed by the global token index (block * context + position).

Shape suffixes: N corpus tokens, V vocabulary, P (block, position) pairs flattened, which is N again.

Rules are predicates on these arrays, so a rule can be run on any text that was made into a `TokenTable`.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader

CLASSES = (
    "special tokens", "line breaks", "spaces", "numbers", "punctuation", "capitalised words", "words in capitals",
    "lower-case words", "word endings and pieces", "letters of non-Latin scripts", "byte pieces",
)  # fmt: skip
INDEPENDENT_OF_KEPT = ("position_N", "previous_N", "next_N", "class_V", "word_end_N", "words", "word_of_N", "_words")
_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


@dataclass(frozen=True)
class TokenTable:
    """Facts about each token that rules may use.

    `kept_N`: unmasked. `group_N` indexes `group_names` (the source, or source/language for a source with several languages).
    """

    context: int
    token_id_N: np.ndarray
    doc_id_N: np.ndarray
    kept_N: np.ndarray
    held_out_N: np.ndarray
    group_N: np.ndarray
    group_names: tuple[str, ...]
    token_text: tuple[str, ...]
    special_V: np.ndarray
    starts_word_V: np.ndarray

    @classmethod
    def of(cls, corpus: "CorpusReader", activations: "ActivationReader") -> "TokenTable":
        """From the published corpus and the token mask of the harvest."""
        source, language = np.asarray(corpus.source_of_doc), np.asarray(corpus.language_of_doc)
        several = {name for name in np.unique(source) if len(np.unique(language[source == name])) > 1}
        label_of_doc = np.array([f"{s}/{l}" if s in several else str(s) for s, l in zip(source, language, strict=True)])
        names, group_of_doc = np.unique(label_of_doc, return_inverse=True)
        doc_id = np.asarray(corpus.doc_ids_BT).reshape(-1).astype(np.int32)
        group = np.where(doc_id >= 0, group_of_doc[np.maximum(doc_id, 0)], len(names)).astype(np.int32)
        reason = np.asarray(activations.reason_BT).reshape(-1)
        return cls(
            context=corpus.context,
            token_id_N=np.asarray(corpus.token_ids_BT).reshape(-1).astype(np.int32),
            doc_id_N=doc_id,
            kept_N=reason == 0,
            held_out_N=np.repeat(np.asarray(corpus.held_out_B, dtype=bool), corpus.context),
            group_N=group,
            group_names=(*(str(name) for name in names), "(none)"),
            token_text=tuple(corpus.token_text),
            special_V=corpus.vocabulary["is_special"].to_numpy(),
            starts_word_V=corpus.vocabulary["starts_word"].to_numpy(),
        )

    def only(self, token_index: np.ndarray | None) -> "TokenTable":
        """The same table in which no other tokens are kept; None: itself. What was computed on the way is shared."""
        if token_index is None:
            return self
        kept_N = np.zeros(self.n_tokens, dtype=bool)
        kept_N[token_index] = True
        twin = replace(self, kept_N=kept_N)
        twin.__dict__.update({name: self.__dict__[name] for name in INDEPENDENT_OF_KEPT if name in self.__dict__})
        return twin

    @property
    def n_tokens(self) -> int:
        """Tokens in the table, masked ones included."""
        return len(self.token_id_N)

    @property
    def n_vocabulary(self) -> int:
        """Token ids are below this number; the number itself stands for "no token" (before the first, after the last)."""
        return len(self.token_text)

    @cached_property
    def train_N(self) -> np.ndarray:
        """Unmasked train tokens."""
        return self.kept_N & ~self.held_out_N

    @cached_property
    def test_N(self) -> np.ndarray:
        """Unmasked held-out tokens."""
        return self.kept_N & self.held_out_N

    @cached_property
    def position_N(self) -> np.ndarray:
        """Position within the block."""
        return (np.arange(self.n_tokens) % self.context).astype(np.int32)

    @cached_property
    def previous_N(self) -> np.ndarray:
        """Id of the token before, within the block."""
        previous = np.roll(self.token_id_N, 1)
        previous[:: self.context] = self.n_vocabulary
        return previous

    @cached_property
    def next_N(self) -> np.ndarray:
        """Id of the token after, within the block."""
        following = np.roll(self.token_id_N, -1)
        following[self.context - 1 :: self.context] = self.n_vocabulary
        return following

    @cached_property
    def class_V(self) -> np.ndarray:
        """Index into `CLASSES` of every token id."""
        rows = zip(self.token_text, self.special_V, self.starts_word_V, strict=True)
        return np.array([_class(text, special, starts) for text, special, starts in rows], dtype=np.int32)

    @cached_property
    def word_end_N(self) -> np.ndarray:
        """At the last token of a word: its index in `words`; elsewhere -1. Words are lower case, three letters or longer."""
        return self._words[0]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The distinct words of the corpus, sorted."""
        return self._words[1]

    @cached_property
    def word_of_N(self) -> np.ndarray:
        """At every token of a word: the word's index in `words`; elsewhere -1."""
        return self._words[2]

    @cached_property
    def _words(self) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
        wordish_V = np.isin(self.class_V, [CLASSES.index(name) for name in CLASSES[5:]])
        wordish_N = wordish_V[self.token_id_N]
        before_N = np.roll(wordish_N, 1)
        before_N[:: self.context] = False
        starts_N = wordish_N & (self.starts_word_V[self.token_id_N] | ~before_N)
        start = np.flatnonzero(starts_N)
        of_word_N = np.cumsum(starts_N) - 1
        last = np.full(len(start), -1)
        inside = np.flatnonzero(wordish_N)
        last[of_word_N[inside]] = inside  # ascending, so the last token of the word wins
        texts = [
            self.text(first, end).strip().lower() if end > first else self.token_text[self.token_id_N[first]].strip().lower()
            for first, end in zip(start.tolist(), last.tolist(), strict=True)
        ]
        distinct = sorted({text for text in texts if len(text) >= 3 and text.isalpha()})
        index = {text: i for i, text in enumerate(distinct)}
        id_of_start = np.array([index.get(text, -1) for text in texts], dtype=np.int32)
        end_N = np.full(self.n_tokens, -1, dtype=np.int32)
        end_N[last] = id_of_start
        word_of_N = np.full(self.n_tokens, -1, dtype=np.int32)
        word_of_N[inside] = id_of_start[of_word_N[inside]]
        return end_N, tuple(distinct), word_of_N

    def text(self, first: int, last: int) -> str:
        """Text of the tokens first..last (inclusive), byte pieces put together again."""
        joined = "".join(self.token_text[token] for token in self.token_id_N[first : last + 1])
        if "\\x" not in joined:
            return joined
        raw = b"".join(bytes([int(part, 16)]) if odd else part.encode() for odd, part in _with_parity(_BYTE.split(joined)))
        return raw.decode("utf-8", errors="replace")


def _with_parity(parts: list[str]) -> list[tuple[bool, str]]:
    return [(bool(i % 2), part) for i, part in enumerate(parts)]


def _class(text: str, special: bool, starts_word: bool) -> int:
    stripped = text.strip()
    letters = [character for character in stripped if character.isalpha()]
    if special:
        name = "special tokens"
    elif not stripped:
        name = "line breaks" if "\n" in text or "\r" in text else "spaces"
    elif _BYTE.search(text):
        name = "byte pieces"
    elif not letters:
        name = "numbers" if any(character.isdigit() for character in stripped) else "punctuation"
    elif any(ord(character) > 0x24F for character in letters):
        name = "letters of non-Latin scripts"
    elif len(letters) > 1 and stripped.isupper():
        name = "words in capitals"
    elif stripped[0].isupper():
        name = "capitalised words"
    else:
        name = "lower-case words" if starts_word else "word endings and pieces"
    return CLASSES.index(name)
