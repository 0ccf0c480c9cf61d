"""What a clamp costs: multiple choice by log-probabilities, and cross-entropy on held-out text.

Shape legend: K factors, C features, Q questions, A answers, B rows, T positions, D width, V vocabulary, M answer tokens.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import Intervention, Push
from sae_pipeline.steering.output_score import Candidate
from sae_pipeline.survey.steering.concepts import Question
from sae_pipeline.survey.thresholds import thresholds

CAPABILITY_FACTORS = (-5.0, -2.0, -1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Costs:
    """Without steering, and under every clamp: which questions are answered right, log-probability per token of the right answers
    (mean over questions), cross-entropy (nats per held-out token)."""

    correct_Q: np.ndarray
    log_p: float
    cross_entropy: float
    correct_KCQ: np.ndarray
    log_p_KC: np.ndarray
    cross_entropy_KC: np.ndarray

    @property
    def extra_nats_KC(self) -> np.ndarray:
        """What each clamp costs per held-out token."""
        return self.cross_entropy_KC - self.cross_entropy

    @property
    def answer_nats_KC(self) -> np.ndarray:
        """What each clamp costs per token of the right answers."""
        return self.log_p - self.log_p_KC


@torch.no_grad()
def costs(
    lm: LanguageModel, sae: SparseAutoencoder, candidates: Sequence[Candidate], questions: Sequence[Question], held_out_BT: Tensor
) -> Costs:
    """What every clamp costs. In multiple choice the answer of the highest mean log-probability counts; in held-out blocks every
    next token that is not special does, after the first."""
    answering, reading = MultipleChoice(lm, questions), _held_out(lm, held_out_BT)
    shape = (len(CAPABILITY_FACTORS), len(candidates))
    correct_KCQ, log_p_KC, cross_entropy_KC = np.zeros((*shape, len(questions)), bool), np.zeros(shape), np.zeros(shape)
    with bar("cost of steering", log_p_KC.size, "clamps") as progress:
        for k, factor in enumerate(CAPABILITY_FACTORS):
            for c, candidate in enumerate(candidates):
                push = Push(factor * candidate.maximum, "clamp", candidate.feature)
                edit = Intervention(sae, [[push]], sae.config["threshold_norm"], device=lm.device)
                correct_KCQ[k, c], log_p_KC[k, c] = answering(edit)
                cross_entropy_KC[k, c] = reading(edit)
                progress.update(1)
    return Costs(*answering(None), reading(None), correct_KCQ, log_p_KC, cross_entropy_KC)


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


class MultipleChoice:
    """Reads every answer off the last position of a text: the question with what precedes the token in the answer.

    Texts that answers share are read once, and those of equal length together: no text is padded.
    """

    def __init__(self, lm: LanguageModel, questions: Sequence[Question]) -> None:
        self._lm, self._n_answers = lm, len(questions[0].answers)
        # By length: {text: [(answer, token)]}.
        wanted: dict[int, dict[tuple[int, ...], list[tuple[int, int]]]] = defaultdict(dict)
        n_tokens: list[int] = []
        for question in questions:
            ask = lm.tokenize(question.ask, bos=True)
            for answer in question.answers:
                said = lm.tokenize(f" {answer}", bos=False)
                for i, token in enumerate(said):
                    text = (*ask, *said[:i])
                    wanted[len(text)].setdefault(text, []).append((len(n_tokens), token))
                n_tokens.append(len(said))
        self._n_tokens = np.array(n_tokens)
        self._texts = [torch.tensor(list(texts)) for texts in wanted.values()]
        self._residuals = [lm.residual(ids_BT) for ids_BT in self._texts]
        flat = [
            torch.tensor([(b, answer, token) for b, each in enumerate(texts.values()) for answer, token in each])
            for texts in wanted.values()
        ]
        self._asked = [each_M3.unbind(1) for each_M3 in flat]

    def __call__(self, edit: Intervention | None) -> tuple[np.ndarray, float]:
        """(which questions are answered right, Q bool; mean over questions of the right answer's log-probability per token)."""
        log_p = np.zeros(len(self._n_tokens))
        for ids_BT, r_BTD, (b_M, answer_M, token_M) in zip(self._texts, self._residuals, self._asked, strict=True):
            # Of all positions: the head of a few last ones alone takes a far slower path in bfloat16 on a CPU.
            logits_BTV = self._lm.logits_from(r_BTD if edit is None else edit(r_BTD, None, 0), ids_BT)
            logits_BV = logits_BTV[:, -1].float().cpu()
            log_p_M = logits_BV[b_M, token_M] - logits_BV.logsumexp(1)[b_M]
            np.add.at(log_p, answer_M.numpy(), log_p_M.numpy())
        mean_QA = (log_p / self._n_tokens).reshape(-1, self._n_answers)
        return mean_QA.argmax(1) == 0, float(mean_QA[:, 0].mean())


def sweet_spot(plain: float, mean_K: np.ndarray) -> tuple[float, float]:
    """(lowest, highest) factor around 0 up to which the mean accuracy is at most `max_drop` below the unsteered one."""
    low = high = 0.0
    for factor, mean in sorted(zip(CAPABILITY_FACTORS, mean_K, strict=True), key=lambda pair: abs(pair[0])):
        kept = plain - mean <= thresholds().max_drop
        if factor < 0 and low == _next_inside(factor):
            low = factor if kept else low
        elif factor > 0 and high == _next_inside(factor):
            high = factor if kept else high
    return low, high


def _next_inside(factor: float) -> float:
    """The neighbouring factor on the side of 0; 0 itself for the innermost ones."""
    inside = [each for each in CAPABILITY_FACTORS if each * factor > 0 and abs(each) < abs(factor)]
    return max(inside, key=abs, default=0.0)
