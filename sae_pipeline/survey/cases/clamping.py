"""What a clamp does to the next token: log-probabilities of sets of tokens, no text generated.

Shapes: P prompts, A arms (unit, factor), B rows, T positions, D width, V vocabulary.

The model is read up to the hook once; every arm goes on from there. A factor is a multiple of the feature's training maximum. A
random direction is clamped like a feature, as far as the feature of its number: nulls push as hard. A random feature is clamped
to multiples of its own maximum.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import track
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import Intervention, Push

BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Prompt:
    """Where the next token is read, and the tokens whose probability counts: for, and against (none: their log-probability).

    `group`: prompts that say nearly the same (one template, one phrase) and are resampled together; None: a group of its own.
    """

    text: str
    half: str
    ids: list[int]
    says: list[int]
    against: list[int]
    group: str | None = None


@dataclass(frozen=True, order=True)
class Dose:
    """One arm: a unit of one of the banks. Bank 0 is the SAE; from 1, random directions; below 0, groups of the SAE's own random
    features."""

    unit: int
    factor: float
    bank: int = 0

    @property
    def feature(self) -> int | None:
        """The SAE feature, if it is one."""
        return None if self.bank > 0 else self.unit

    @property
    def control(self) -> str:
        """What it is a control of: see the tables."""
        return ("none", "random_direction", "random_feature")[np.sign(self.bank)]


@dataclass(frozen=True)
class Effect:
    """Log-probabilities in nats, A x P: of the tokens for, and of those against (zeros where there are none)."""

    says_AP: np.ndarray
    against_AP: np.ndarray

    @property
    def log_odds_AP(self) -> np.ndarray:
        """For less against."""
        return self.says_AP - self.against_AP


class Clamper:
    """A model with units to clamp. `banks`: the SAE, then as large ones of random directions; `maximum_F`: training maxima."""

    def __init__(self, lm: LanguageModel, banks: Sequence[SparseAutoencoder], maximum_F: np.ndarray) -> None:
        self.lm, self.banks, self.maximum_F = lm, banks, maximum_F

    def edit(self, dose: Dose | None) -> Intervention | None:
        """The intervention of an arm; None is the model as it is."""
        if dose is None:
            return None
        bank, push = self.banks[max(dose.bank, 0)], Push(dose.factor * float(self.maximum_F[dose.unit]), "clamp", dose.unit)
        return Intervention(bank, [[push]], bank.config["threshold_norm"], device=self.lm.device)

    def effect(self, prompts: Sequence[Prompt], doses: Sequence[Dose | None], what: str) -> Effect:
        """Log-probabilities after every prompt under every arm."""
        says_AP, against_AP = np.zeros((2, len(doses), len(prompts)))
        batches = list(self._batches([prompt.ids for prompt in prompts]))
        for at, ids_BT, r_BTD in track(batches, what, unit="batches"):
            last_B = torch.tensor([len(prompts[place].ids) - 1 for place in at], device=self.lm.device)
            rows_B = torch.arange(len(at), device=self.lm.device)
            for arm, dose in enumerate(doses):
                logits_BTV = self.lm.logits_from(self._steered(r_BTD, dose), ids_BT)
                log_p_BV = logits_BTV[rows_B, last_B].float().log_softmax(-1)
                for row, place in enumerate(at):
                    says_AP[arm, place] = float(log_p_BV[row, prompts[place].says].logsumexp(0))
                    if prompts[place].against:
                        against_AP[arm, place] = float(log_p_BV[row, prompts[place].against].logsumexp(0))
        return Effect(says_AP, against_AP)

    def nats(self, texts: Sequence[list[int]], doses: Sequence[Dose | None], what: str) -> np.ndarray:
        """Cross-entropy per token of each text under every arm, nats; A x texts."""
        nats_AT = np.zeros((len(doses), len(texts)))
        for at, ids_BT, r_BTD in track(list(self._batches(texts)), what, unit="batches"):
            for arm, dose in enumerate(doses):
                logits_BTV = self.lm.logits_from(self._steered(r_BTD, dose), ids_BT)
                for row, place in enumerate(at):
                    # A row at a time: float32 logits of a whole batch would be hundreds of megabytes.
                    n, next_T = len(texts[place]), ids_BT[row, 1 : len(texts[place])].to(logits_BTV.device)
                    log_p_TV = logits_BTV[row, : n - 1].float().log_softmax(-1)
                    nats_AT[arm, place] = -float(log_p_TV.gather(1, next_T[:, None]).mean())
        return nats_AT

    def _steered(self, r_BTD: Tensor, dose: Dose | None) -> Tensor:
        edit = self.edit(dose)
        return r_BTD if edit is None else edit(r_BTD, None, 0)

    def _batches(self, ids: Sequence[list[int]]) -> Iterable[tuple[list[int], Tensor, Tensor]]:
        """(places, ids_BT, r_BTD), similar lengths together. Padding stands on the right, where no earlier token looks."""
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        while order:
            batch = []
            while order and (len(batch) + 1) * len(ids[order[0]]) <= max(BATCH_TOKENS, len(ids[order[0]])):
                batch.append(order.pop(0))
            ids_BT = torch.zeros(len(batch), len(ids[batch[-1]]), dtype=torch.int64)
            for row, place in enumerate(batch):
                ids_BT[row, : len(ids[place])] = torch.tensor(ids[place])
            yield batch, ids_BT, self.lm.residual(ids_BT)


def first_tokens(lm: LanguageModel, words: Iterable[str]) -> list[int]:
    """The first token of each word, without repeats. Words bring their own leading space."""
    return sorted({lm.tokenize(word, bos=False)[0] for word in words})
