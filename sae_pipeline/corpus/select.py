"""Choose documents of a source up to its token budget, and split them into train and held out by document."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from sae_pipeline.corpus.document import Document
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.tokens import Tokens
from sae_pipeline.progress import bar

BATCH = 256  # documents tokenised at once
CHARACTERS_PER_TOKEN = 24  # no text has longer tokens on average: more characters than this need not be tokenised


@dataclass
class Dropped:
    """Documents that were not used, by reason."""

    empty: int = 0
    undecodable: int = 0
    duplicate: int = 0


@dataclass(frozen=True)
class Chosen:
    """A document with the tokens that are used of it, without BOS and EOS."""

    document: Document
    token_ids: list[int]
    text: str


@dataclass
class Selection:
    """What was taken from one source."""

    chosen: list[Chosen] = field(default_factory=list)
    dropped: Dropped = field(default_factory=Dropped)


def select(label: str, documents: Iterable[Document], budget: int, limit: int, tokens: Tokens, seen: set[bytes]) -> Selection:
    """Take documents in order until `budget` tokens (one EOS per document included) are reached; the last one is cut.

    `limit`: most tokens of one document. `seen`: digests of every text taken so far, over all sources. Raises `UserError` when
    the source is empty or smaller than the budget.
    """
    selection, n_tokens = Selection(), 0
    with bar(f"tokenise {label}", budget, "tokens") as progress:
        for batch in _batches(_usable(documents, selection.dropped, seen)):
            texts = [(document.text or "")[: limit * CHARACTERS_PER_TOKEN] for document in batch]
            for document, text, ids in zip(batch, texts, tokens.tokenize_batch(texts), strict=True):
                room = min(limit, budget - n_tokens - 1)
                if room < 1:
                    return selection
                if not ids:
                    selection.dropped.empty += 1
                    continue
                used = ids[:room]
                selection.chosen.append(Chosen(document, used, text if len(used) == len(ids) else tokens.decode(used)))
                n_tokens += len(used) + 1
                progress.update(len(used) + 1)
                if n_tokens >= budget - 1:
                    return selection
    if not selection.chosen:
        dropped = selection.dropped
        raise UserError(
            f"corpus.sources.{label}",
            f"holds no usable document ({dropped.empty} empty, {dropped.undecodable} undecodable, {dropped.duplicate} duplicate)",
            "Give another source, or correct its `text` field.",
        )
    raise UserError(
        f"corpus.sources.{label}.tokens",
        f"{budget:,} is more than the source holds: {n_tokens:,} tokens in {len(selection.chosen):,} documents",
        f"Set it to at most {n_tokens:,} (max_tokens_per_document: {limit:,} also counts).",
    )


def held_out_documents(groups: list[str], share: float, generator: np.random.Generator) -> np.ndarray:
    """Which documents are held out (bool): whole groups, drawn at random, that together make about `share` of the documents."""
    names, group_of_doc = np.unique(np.array(groups), return_inverse=True)
    sizes = np.bincount(group_of_doc)
    target = max(1, round(share * len(groups)))
    if len(names) < 2:
        raise UserError(
            "corpus.held_out", "a source has a single document, which cannot be split", "Add documents to that source."
        )
    held_out, n = np.zeros(len(names), dtype=bool), 0
    for group in generator.permutation(len(names)):
        if n + sizes[group] <= target:
            held_out[group], n = True, n + sizes[group]
    if n == 0:  # every group is larger than the share: the smallest one
        held_out[sizes.argmin()] = True
    return held_out[group_of_doc]


def _usable(documents: Iterable[Document], dropped: Dropped, seen: set[bytes]) -> Iterator[Document]:
    for document in documents:
        if document.text is None:
            dropped.undecodable += 1
            continue
        normal = " ".join(document.text.split()).casefold()
        digest = hashlib.sha256(normal.encode("utf-8", errors="surrogatepass")).digest()
        if not normal:
            dropped.empty += 1
        elif digest in seen:
            dropped.duplicate += 1
        else:
            seen.add(digest)
            yield document


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, BATCH)):
        yield batch
