"""Logit-output score: does turning a feature up make the model say what the feature is about? Nothing is generated for it.

After the idea of Arad et al. (2025), who ask for the feature's logit-lens tokens; here the tokens are those that say the
feature's concept terms, so that one definition of the concept serves selection and evaluation.

Shape legend: C candidates, K factors, B rows of a batch, T positions, D model width, V vocabulary, S tokens that say the concept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.fluency import MAX_EXTRA_NATS
from sae_pipeline.steering.interventions import Intervention, Push
from sae_pipeline.steering.prompts import output_score_texts, output_score_turn

COARSE_FACTOR, COARSE_TEXTS, COARSE_TOKENS = 2.0, 2, 8
FINE_FACTORS = (1.0, 1.5)
BATCH_TOKENS, ROWS = 512, 128  # tokens of a batch; of these, at a time in float32


@dataclass(frozen=True)
class Candidate:
    """A feature that may be steered: its training maximum, and the tokens that say its concept terms."""

    feature: int
    maximum: float
    says: Sequence[int]

    def push(self, factor: float) -> Push:
        """The feature clamped to `factor` x its training maximum."""
        return Push(factor * self.maximum, "clamp", self.feature)


class Scored(Protocol):
    """What can be scored: a candidate, or anything else that is pushed and should say something."""

    @property
    def says(self) -> Sequence[int]:
        """Tokens that say its concept."""
        ...

    def push(self, factor: float) -> Push:
        """What is done to the residual."""
        ...


@dataclass(frozen=True)
class Reading:
    """A text along which next tokens are read, after a context."""

    before: Sequence[int]
    text: Sequence[int]


def says(lm: LanguageModel, terms: Sequence[str]) -> list[int]:
    """The tokens that say a concept term: after a space, in lower case or capitalised.

    Only spellings of a single token count; when no term has one, the first tokens of all spellings do. First pieces of longer
    words (` g` of `gdp`) begin too many other words.
    """
    spelled = [lm.tokenize(f" {spelling}", bos=False) for term in terms for spelling in (term, term.capitalize())]
    whole = [token_ids for token_ids in spelled if len(token_ids) == 1]
    return sorted({token_ids[0] for token_ids in whole or spelled})


def coarse_scores(lm: LanguageModel, sae: SparseAutoencoder, candidates: Sequence[Candidate]) -> list[float]:
    """A first score of many candidates: the beginnings of two texts, at one factor, whatever becomes of the language."""
    start = [] if lm.bos_id is None else [lm.bos_id]
    texts = [lm.tokenize(text, bos=False)[:COARSE_TOKENS] for text in output_score_texts()[:COARSE_TEXTS]]
    rise_KC, _ = rises(lm, sae, candidates, [Reading(start, text) for text in texts], [COARSE_FACTOR])
    return rise_KC[0].tolist()


def fine_scores(lm: LanguageModel, sae: SparseAutoencoder, candidates: Sequence[Scored]) -> list[float]:
    """The score that decides, -1..1: whole texts as an answer in a chat, at the best factor that leaves the language alone.

    A factor counts while the texts themselves cost at most `MAX_EXTRA_NATS` more per token than without steering; 0 when none
    does.
    """
    turn = lm.chat(output_score_turn())
    readings = [Reading(turn, lm.tokenize(text, bos=False)) for text in output_score_texts()]
    rise_KC, extra_nats_KC = rises(lm, sae, candidates, readings, FINE_FACTORS)
    rise_KC[extra_nats_KC > MAX_EXTRA_NATS] = 0.0
    return rise_KC.max(0).values.tolist()


@torch.no_grad()
def rises(
    lm: LanguageModel,
    sae: SparseAutoencoder,
    candidates: Sequence[Scored],
    readings: Sequence[Reading],
    factors: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """What each candidate's push (of a feature: a clamp to `factor` x its training maximum) does along the texts, mean over
    positions, then texts.

    (rise of the next-token probability of the tokens that say its concept, rise of the cross-entropy of the texts in nats per
    token), both K x C on the CPU.
    """
    rise_KC, extra_nats_KC = torch.zeros(2, len(factors), len(candidates))
    said_S = [torch.tensor(candidate.says, dtype=torch.int64, device=lm.device) for candidate in candidates]
    for reading in readings:
        ids_1T = torch.tensor([[*reading.before, *reading.text]])
        next_T = torch.tensor(reading.text[1:], device=lm.device)
        r_1TD = lm.residual(ids_1T)
        batch_rows = max(1, BATCH_TOKENS // ids_1T.shape[1])

        def logits(r_BTD: Tensor, ids_1T: Tensor = ids_1T, first: int = len(reading.before)) -> tuple[Tensor, Tensor]:
            logits_BTV = lm.logits_from(r_BTD, ids_1T.expand(len(r_BTD), -1))[:, first:]
            # In parts: float32 logits of a whole batch would be 100 MB of fresh pages.
            total_M = torch.cat([part_MV.float().logsumexp(1) for part_MV in logits_BTV.flatten(0, 1).split(ROWS)])
            return logits_BTV, total_M.view(logits_BTV.shape[:2])

        def log_p(logits_TV: Tensor, total_T: Tensor, said_S: Tensor) -> Tensor:
            return logits_TV[:, said_S].float() - total_T[:, None]

        def nats(logits_TV: Tensor, total_T: Tensor, next_T: Tensor = next_T) -> Tensor:
            return (total_T[:-1] - logits_TV[:-1].gather(1, next_T[:, None]).squeeze(1).float()).mean()

        clean_1TV, total_1T = logits(r_1TD)
        clean = clean_1TV[0], total_1T[0]
        for k, factor in enumerate(factors):
            for start in range(0, len(candidates), batch_rows):
                batch = range(start, min(start + batch_rows, len(candidates)))
                rows = [[candidates[c].push(factor)] for c in batch]
                edit = Intervention(sae, rows, sae.config["threshold_norm"], device=lm.device)
                steered_BTV, total_BT = logits(edit(r_1TD.expand(len(rows), -1, -1), None, 0))
                for c, steered in zip(batch, zip(steered_BTV, total_BT, strict=True), strict=True):
                    rise_T = log_p(*steered, said_S[c]).exp().sum(1) - log_p(*clean, said_S[c]).exp().sum(1)
                    rise_KC[k, c] += float(rise_T.mean()) / len(readings)
                    extra_nats_KC[k, c] += float(nats(*steered) - nats(*clean)) / len(readings)
    return rise_KC, extra_nats_KC
