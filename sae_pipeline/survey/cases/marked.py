"""Texts with labelled parts: `[x|words]` marks the words with the label x, `[words]` with the only label there is.

Shapes: N tokens, L labels, D width.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.survey.cases.counts import Labelled
from sae_pipeline.survey.cases.reading import from_ids, scored_tokens, token_ranges, with_bos

NAMED = re.compile(r"\[([a-z])\|((?:[^\[\]]|\[\])*)\]")
PLAIN = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Marked:
    """A text without its marks, and the labelled spans of characters (label, start, end)."""

    text: str
    spans: tuple[tuple[int, int, int], ...]


def parse(source: str, labels: Sequence[str]) -> Marked:
    """Read `[x|words]`, where x is one of `labels`. Raises `ValueError` for an unknown mark (by `labels.index`)."""
    return _parsed(source, NAMED, lambda match: labels.index(match[1]), group=2)


def parse_single(source: str, label: int) -> Marked:
    """Read `[words]`; all of them have the label `label`."""
    return _parsed(source, PLAIN, lambda match: label, group=1)


def _parsed(source: str, pattern: re.Pattern[str], label_of, group: int) -> Marked:
    text, spans, last = "", [], 0
    for match in pattern.finditer(source):
        text += source[last : match.start()]
        spans.append((label_of(match), len(text), len(text) + len(match[group])))
        text += match[group]
        last = match.end()
    return Marked(text + source[last:], tuple(spans))


def labelled(lm: LanguageModel, sae: SparseAutoencoder, texts: Sequence[Marked], n_labels: int, what: str) -> Iterator[Labelled]:
    """The texts' tokens with their labels, a batch at a time; the group of a token is its text's place."""
    tables, whole = [], []
    for marked in texts:
        ids, ranges = token_ranges(lm, marked.text)
        label_TL = np.zeros((len(ids), n_labels), bool)
        for label, start, end in marked.spans:
            for token, (first, last) in enumerate(ranges):
                label_TL[token, label] |= first < end and last > start
        shift = len(with_bos(lm, ids)) - len(ids)
        tables.append(np.concatenate([np.zeros((shift, n_labels), bool), label_TL]))
        whole.append(from_ids(with_bos(lm, ids)))
    for batch, r_ND, place_N2 in scored_tokens(lm, sae, whole, what):
        places = place_N2.tolist()
        label_NL = np.array([tables[batch[row]][position] for row, position in places]).reshape(len(places), n_labels)
        yield Labelled(r_ND, label_NL, np.array([batch[row] for row, _ in places], np.int64))
