"""Texts as both banks and the residual stream see them. Masked positions count nowhere.

Shapes: I texts, T positions, D width, F units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.attribution.attribute import masked
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.survey.search.banks import Bank


@dataclass(frozen=True)
class Read:
    """One text: raw activations of its unmasked positions, and which tokens stand there."""

    r_TD: Tensor
    token_ids: tuple[int, ...]


def read_text(lm: LanguageModel, bank: Bank, text: str, bos: bool) -> Read:
    """Raises `UserError` for a text without a position that has features."""
    ids = lm.tokenize(text, bos)
    r_TD = lm.residual(torch.tensor([ids]))[0].float().cpu() if ids else torch.zeros(0, 1)
    keep_T = ~masked(lm, bank.sae, tuple(ids), r_TD) if ids else torch.zeros(0, dtype=torch.bool)
    if not bool(keep_T.any()):
        raise UserError("text", f"{text!r} has no token with features", "Give a longer one; the first position never counts.")
    return Read(r_TD[keep_T], tuple(np.asarray(ids)[keep_T.numpy()].tolist()))


def read_texts(lm: LanguageModel, bank: Bank, texts: Sequence[str], bos: bool) -> list[Read]:
    """Every text."""
    return [read_text(lm, bank, text, bos) for text in texts]


def strongest(bank: Bank, reads: Sequence[Read]) -> np.ndarray:
    """Each unit's largest activation in each text, I x F float32."""
    return np.stack([bank.activations(read.r_TD).max(0).values.numpy() for read in reads])


def means(bank: Bank, reads: Sequence[Read]) -> np.ndarray:
    """Mean scaled residual of each text, I x D: what a dense probe reads."""
    return np.stack([bank.sae.scaled(read.r_TD).cpu().mean(0).numpy() for read in reads])
