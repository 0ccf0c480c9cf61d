"""A model of which a test says what every token of a text sets off, and dictionaries that read it.

Case studies run on it as on a real one: their texts are tokenised, pooled, chosen from and reported. What must come out follows
from what was planted. The model is linear: its logits are sums of what the axes push.

Shapes: B texts, T positions, D axes (the residual stream), F units of a bank, V vocabulary.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study_survey import CaseStudies
from sae_pipeline.survey.cases.bank import Banks
from sae_pipeline.survey.cases.case import World

N_UNITS = 40  # of each bank
NULL, HIDDEN = N_UNITS, 2 * N_UNITS  # first axis of the random directions, and of what no unit reads
BOS, WORD = "<s>", r" ?\w+| ?[^\w\s]|\s"
Says = Callable[[str, int, int], Mapping[int, float]]
"""(text, first and last character + 1 of one of its tokens) -> strength of every axis that the token sets off."""


def strings(held: Any) -> Iterator[str]:
    """Every key and value of a committed file of texts, as text."""
    if isinstance(held, Mapping):
        for key, value in held.items():
            yield str(key)
            yield from strings(value)
    elif isinstance(held, list):
        for value in held:
            yield from strings(value)
    else:
        yield str(held)


class PlantedModel:
    """Stands where a `LanguageModel` does. `texts`: whatever its tokenizer must know the words of, filled in or not.

    `pushes`: {(axis, word): what one unit of the axis adds to the word's logit}.
    """

    bos_id, special_ids, device = 0, frozenset({0}), torch.device("cpu")

    def __init__(
        self, texts: Iterable[str], says: Says, n_hidden: int = 0, pushes: Mapping[tuple[int, str], float] | None = None
    ) -> None:
        words = {word for text in texts for spelt in (text, f" {text}") for word in re.findall(WORD, spelt)}
        self.words = [BOS, *sorted(words)]
        tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(self.words)}, BOS))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS)
        self._says, self.d_model = says, HIDDEN + n_hidden
        self.push_DV = torch.zeros(self.d_model, len(self.words))
        for (axis, word), weight in (pushes or {}).items():
            self.push_DV[axis, self.words.index(word)] = weight

    def tokenize(self, text: str, bos: bool) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert self.decode(ids) == text  # every word is known
        return [self.bos_id, *ids] if bos else ids

    def chat(self, turn: str) -> list[int]:
        return self.tokenize(turn, bos=True)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.words[each] for each in ids if each != self.bos_id)

    def residual(self, ids_BT: Tensor) -> Tensor:
        r_BTD = torch.zeros(*ids_BT.shape, self.d_model)
        for b, ids in enumerate(ids_BT.tolist()):
            text, end = self.decode(ids), 0
            for t, token in enumerate(ids):
                if token == self.bos_id:
                    continue
                start, end = end, end + len(self.words[token])
                for axis, strength in self._says(text, start, end).items():
                    r_BTD[b, t, axis] = strength
        return r_BTD

    def logits_from(self, r_BTD: Tensor, ids_BT: Tensor) -> Tensor:
        return r_BTD @ self.push_DV

    def last_logits_from(self, r_BTD: Tensor, ids_BT: Tensor) -> Tensor:
        return self.logits_from(r_BTD, ids_BT)[:, -1]

    def last_logits_and_gradient(self, r_1TD: Tensor, ids_1T: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf_1TD = r_1TD.clone().requires_grad_(True)
            logits_V = self.logits_from(leaf_1TD, ids_1T)[0, -1]
            (gradient_1TD,) = torch.autograd.grad(score(logits_V), leaf_1TD)
        return logits_V.detach(), gradient_1TD[0]

    def model(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits_from(self.residual(input_ids), input_ids))


def bank(model: PlantedModel, first: int, decoders: Mapping[int, int] | None = None) -> SparseAutoencoder:
    """Unit i reads axis `first` + i and writes it, too, or the axis that `decoders` names for it."""
    W_enc_FD = torch.eye(model.d_model)[first : first + N_UNITS]
    W_dec_FD = W_enc_FD.clone()
    for unit, axis in (decoders or {}).items():
        W_dec_FD[unit] = torch.eye(model.d_model)[axis]
    weights = {
        "W_enc_FD": W_enc_FD, "b_enc_F": torch.zeros(N_UNITS), "W_dec_FD": W_dec_FD, "b_dec_D": torch.zeros(model.d_model),
        "threshold_F": torch.full((N_UNITS,), 0.1), "mean_D": torch.zeros(model.d_model),
    }  # fmt: skip
    config = {
        "architecture": "batch_topk", "n_features": N_UNITS, "d_model": model.d_model, "scale": 1.0, "threshold_norm": 1e6,
    }  # fmt: skip
    return SparseAutoencoder(weights, config)


def text_world(
    model: PlantedModel, folder: Path, not_live: Iterable[int] = (), decoders: Mapping[int, int] | None = None
) -> World:
    """The world of a case study: both banks, every feature as dense as every other, some of them not live (no control then)."""
    dead = set(not_live)
    facts = {"feature": range(N_UNITS), "alive": [unit not in dead for unit in range(N_UNITS)]}
    facts |= {"density": [0.01] * N_UNITS, "max_activation": [1.0] * N_UNITS}
    pl.DataFrame(facts).write_parquet(folder / "features.parquet")
    unread: Any = None
    lm: Any = model
    return World(lm, Banks(bank(model, 0, decoders), bank(model, NULL)), unread, unread, folder, CaseStudies(n_rival_groups=2))
