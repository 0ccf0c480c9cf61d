"""Dose curves without generating: what a clamp says at every factor, and what it costs: multiple choice, held-out text.

Shape legend: K factors, C features, Q questions with A answers each, B rows, T positions, D width, V vocabulary, M answer tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import Intervention, Push
from sae_pipeline.steering.output_score import Candidate, Reading, rises
from sae_pipeline.survey.steering.concepts import Question, read_openings

DOSE_FACTORS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
CAPABILITY_FACTORS = (-5.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 5.0)
MONOTONE = 0.8  # Spearman's correlation of factor and effect (checklist, row 32)
MAX_DROP = 0.02  # of accuracy, inside the sweet spot (row 33)


def monotone(lm: LanguageModel, sae: SparseAutoencoder, candidates: Sequence[Candidate]) -> np.ndarray:
    """Spearman's correlation, per candidate, of factor and rise of the probability to say its concept. C values.

    Read along texts of their own: those of the output score have chosen the candidates.
    """
    turn, texts = read_openings()
    readings = [Reading(lm.chat(turn), lm.tokenize(text, bos=False)) for text in texts]
    rise_KC, _ = rises(lm, sae, candidates, readings, DOSE_FACTORS)
    # A concept that never becomes likelier at any dose has constant ranks and no correlation: that is no dose response.
    return np.nan_to_num([spearmanr(DOSE_FACTORS, rise_K.numpy())[0] for rise_K in rise_KC.T])


@dataclass(frozen=True)
class Costs:
    """Accuracy and cross-entropy (nats per held-out token) without steering, and K x C under every clamp."""

    accuracy: float
    cross_entropy: float
    accuracy_KC: np.ndarray
    cross_entropy_KC: np.ndarray

    @property
    def extra_nats_KC(self) -> np.ndarray:
        """What each clamp costs per held-out token."""
        return self.cross_entropy_KC - self.cross_entropy


@torch.no_grad()
def costs(
    lm: LanguageModel, sae: SparseAutoencoder, candidates: Sequence[Candidate], questions: Sequence[Question], held_out_BT: Tensor
) -> Costs:
    """What every clamp costs. In multiple choice the answer of the highest mean log-probability counts; in held-out blocks every
    next token that is not special does, after the first."""
    accuracy, reading = _multiple_choice(lm, questions), _held_out(lm, held_out_BT)
    found = np.zeros((2, len(CAPABILITY_FACTORS), len(candidates)))
    with bar("cost of steering", found[0].size, "clamps") as progress:
        for k, factor in enumerate(CAPABILITY_FACTORS):
            for c, candidate in enumerate(candidates):
                push = Push(factor * candidate.maximum, "clamp", candidate.feature)
                edit = Intervention(sae, [[push]], sae.config["threshold_norm"], device=lm.device)
                found[:, k, c] = accuracy(edit), reading(edit)
                progress.update(1)
    return Costs(accuracy(None), reading(None), *found)


def _held_out(lm: LanguageModel, ids_BT: Tensor) -> Callable[[Intervention | None], float]:
    r_BTD, next_BT = lm.residual(ids_BT), ids_BT[:, 1:]
    counted_BT = ~torch.isin(next_BT, torch.tensor(sorted(lm.special_ids)))

    def cross_entropy(edit: Intervention | None) -> float:
        steered_BTD = r_BTD if edit is None else edit(r_BTD, None, 0)
        total = 0.0
        for r_TD, ids_T, counted_T in zip(steered_BTD, ids_BT, counted_BT, strict=True):
            # A block at a time: float32 logits of all of them would be hundreds of megabytes.
            logits_MV = lm.logits_from(r_TD[None], ids_T[None])[0, :-1].cpu()[counted_T].float()
            total += float(torch.nn.functional.cross_entropy(logits_MV, ids_T[1:][counted_T], reduction="sum"))
        return total / int(counted_BT.sum())

    return cross_entropy


def _multiple_choice(lm: LanguageModel, questions: Sequence[Question]) -> Callable[[Intervention | None], float]:
    rows = [
        (lm.tokenize(each.ask, bos=True), lm.tokenize(f" {answer}", bos=False)) for each in questions for answer in each.answers
    ]
    n_answers = len(questions[0].answers)
    width = max(len(ask) + len(answer) for ask, answer in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.int64)
    said_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for b, (ask, answer) in enumerate(rows):
        ids_BT[b, : len(ask) + len(answer)] = torch.tensor([*ask, *answer])
        said_BT[b, len(ask) : len(ask) + len(answer)] = True
    r_BTD = lm.residual(ids_BT)  # padding stands on the right: nothing looks at it

    def accuracy(edit: Intervention | None) -> float:
        logits_BTV = lm.logits_from(r_BTD if edit is None else edit(r_BTD, None, 0), ids_BT)
        own = said_BT[:, 1:].to(logits_BTV.device)
        logits_MV, next_M = logits_BTV[:, :-1][own].float(), ids_BT[:, 1:].to(own.device)[own]
        log_p_M = logits_MV.gather(1, next_M[:, None]).squeeze(1) - logits_MV.logsumexp(1)
        row_M = own.nonzero()[:, 0]
        mean_B = torch.zeros(len(rows), device=own.device).index_add_(0, row_M, log_p_M) / own.sum(1)
        return float((mean_B.view(-1, n_answers).argmax(1) == 0).float().mean())

    return accuracy


def sweet_spot(plain: float, mean_K: np.ndarray) -> tuple[float, float]:
    """(lowest, highest) factor around 0 up to which the mean accuracy is at most `MAX_DROP` below the unsteered one."""
    low = high = 0.0
    for factor, mean in sorted(zip(CAPABILITY_FACTORS, mean_K, strict=True), key=lambda pair: abs(pair[0])):
        kept = plain - mean <= MAX_DROP
        if factor < 0 and low == _next_inside(factor):
            low = factor if kept else low
        elif factor > 0 and high == _next_inside(factor):
            high = factor if kept else high
    return low, high


def _next_inside(factor: float) -> float:
    """The neighbouring factor on the side of 0; 0 itself for the innermost ones."""
    inside = [each for each in CAPABILITY_FACTORS if each * factor > 0 and abs(each) < abs(factor)]
    return max(inside, key=abs, default=0.0)
