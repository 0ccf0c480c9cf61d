"""Texts -> what every unit does on them, as one number per item: a text, or a marked part of one.

Shapes: B texts of a batch, T positions, N scored tokens, I items, F units, D width. The only dense arrays are items x units, and
items are those of committed files (some hundred); nothing is of size tokens x units.

Tokens that take no part: position 0, special tokens, massive activations, and positions that belong to no item.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.survey.cases.bank import Banks

BATCH_TOKENS = 2048
NOT_SCORED = -1


@dataclass(frozen=True)
class Text:
    """Token ids with the BOS in front, and for every position its item within the text (or `NOT_SCORED`)."""

    ids: list[int]
    item_T: np.ndarray

    @property
    def n_items(self) -> int:
        """Items of this text."""
        return int(self.item_T.max(initial=NOT_SCORED)) + 1


@dataclass(frozen=True)
class Pooled:
    """One row per item: `max_IF` and `mean_IF` activation of every unit of a bank over the item's tokens."""

    max_IF: np.ndarray
    mean_IF: np.ndarray


@dataclass(frozen=True)
class Reading:
    """Items read through both banks, and the mean scaled activation of each item for dense probes."""

    features: Pooled
    null: Pooled
    x_ID: np.ndarray


def whole_text(lm: LanguageModel, text: str, first: int = 0) -> Text:
    """A text that is one item, from token `first` on (the BOS not counted)."""
    return from_ids(with_bos(lm, lm.tokenize(text, bos=False)), first + (lm.bos_id is not None))


def from_ids(ids: list[int], first: int = 0) -> Text:
    """Token ids as one item, from position `first` on."""
    item_T = np.full(len(ids), NOT_SCORED)
    item_T[first:] = 0
    return Text(ids, item_T)


def with_bos(lm: LanguageModel, ids: list[int]) -> list[int]:
    """Token ids behind the model's BOS, where it has one."""
    return ids if lm.bos_id is None else [lm.bos_id, *ids]


def from_spans(lm: LanguageModel, text: str, spans: Sequence[tuple[int, int]]) -> Text:
    """A text whose items are spans of characters [start, end): an item's tokens are those that overlap with it."""
    ids, ranges = token_ranges(lm, text)
    item_T = np.full(len(ids), NOT_SCORED)
    for item, (start, end) in enumerate(spans):
        for token, (first, last) in enumerate(ranges):
            if first < end and last > start:
                item_T[token] = item
    shift = [] if lm.bos_id is None else [NOT_SCORED]
    return Text(with_bos(lm, ids), np.array([*shift, *item_T]))


def token_ranges(lm: LanguageModel, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids without BOS, and the characters [start, end) of each; a token's leading space does not count."""
    read = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ranges = [
        (start + len(text[start:end]) - len(text[start:end].lstrip(" ")), end) if text[start:end].strip(" ") else (start, end)
        for start, end in read["offset_mapping"]
    ]
    return read["input_ids"], ranges


def scored_tokens(
    lm: LanguageModel, sae: SparseAutoencoder, texts: Sequence[Text], what: str
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(texts of the batch, r_ND raw activations of its scored tokens, their (text of the batch, position) N x 2).

    Texts of similar length share a batch; padding stands on the right, where no token of a causal model looks.
    """
    order = sorted(range(len(texts)), key=lambda each: len(texts[each].ids))
    special = torch.tensor(sorted(lm.special_ids), dtype=torch.int64)
    with bar(what, len(texts), "texts") as progress:
        while order:
            longest, batch = 0, []
            while order and (not batch or (len(batch) + 1) * max(longest, len(texts[order[0]].ids)) <= BATCH_TOKENS):
                batch.append(order.pop(0))
                longest = max(longest, len(texts[batch[-1]].ids))
            ids_BT = torch.zeros(len(batch), longest, dtype=torch.int64)
            scored_BT = torch.zeros(len(batch), longest, dtype=torch.bool)
            for row, place in enumerate(batch):
                ids = torch.tensor(texts[place].ids)
                ids_BT[row, : len(ids)] = ids
                scored_BT[row, : len(ids)] = torch.from_numpy(texts[place].item_T != NOT_SCORED) & ~torch.isin(ids, special)
            scored_BT[:, 0] = False
            r_BTD = lm.residual(ids_BT).float()
            scored_BT &= (r_BTD.norm(dim=-1) <= sae.config["threshold_norm"]).cpu()
            yield batch, r_BTD[scored_BT.to(r_BTD.device)], scored_BT.nonzero()
            progress.update(len(batch))


def read(lm: LanguageModel, banks: Banks, texts: Sequence[Text], what: str) -> Reading:
    """Pool every unit of both banks over every item. Items are numbered through the texts in order."""
    (features, null), x_ID = read_banks(lm, (banks.features, banks.null), texts, what)
    return Reading(features, null, x_ID)


def read_banks(
    lm: LanguageModel, banks: Sequence[SparseAutoencoder], texts: Sequence[Text], what: str
) -> tuple[list[Pooled], np.ndarray]:
    """(every unit of each bank pooled over every item, mean scaled activation x_ID of each item). The first bank is the SAE."""
    first = np.cumsum([0, *(text.n_items for text in texts)])
    n_items, sae = int(first[-1]), banks[0]
    sums = [_Sums(n_items, bank.n_features) for bank in banks]
    x_ID, n_I = torch.zeros(n_items, sae.d_model), torch.zeros(n_items)
    for batch, r_ND, place_N2 in scored_tokens(lm, sae, texts, what):
        item_N = torch.tensor(
            [first[batch[row]] + texts[batch[row]].item_T[position] for row, position in place_N2.tolist()], dtype=torch.int64
        )
        n_I += torch.bincount(item_N, minlength=n_items)
        x_ID.index_add_(0, item_N, sae.encoder_input(r_ND).x.cpu())
        for bank, each in zip(banks, sums, strict=True):
            each.add(bank, r_ND, item_N)
    count_I1 = n_I.clamp(min=1)[:, None]
    pooled = [Pooled(each.max_IF.numpy(), (each.sum_IF / count_I1).numpy()) for each in sums]
    return pooled, (x_ID / count_I1).numpy()


class _Sums:
    def __init__(self, n_items: int, n_units: int) -> None:
        self.max_IF, self.sum_IF = torch.zeros(n_items, n_units), torch.zeros(n_items, n_units)

    def add(self, bank: SparseAutoencoder, r_ND: Tensor, item_N: Tensor) -> None:
        codes = bank.encode_sparse(r_ND)
        at_P = item_N[codes.token.cpu()] * bank.n_features + codes.feature.cpu().long()
        value_P = codes.value.cpu()
        self.max_IF.view(-1).scatter_reduce_(0, at_P, value_P, "amax")
        self.sum_IF.view(-1).index_add_(0, at_P, value_P)
