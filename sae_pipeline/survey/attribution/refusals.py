"""Which features stand behind a refusal: attribution of its first word against the likeliest other one (row 60).

Requests are harmless ones that a model without tools ought to turn down. Whether it does is measured first.
"""

import torch

from sae_pipeline.attribution.attribute import attribute
from sae_pipeline.attribution.contrast import Contrast
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.survey.attribution.lists import share_about
from sae_pipeline.survey.attribution.pairs import plain_pairs
from sae_pipeline.survey.attribution.prompts import read_requests

ANSWER_TOKENS = 12


def refused_shares(lm: LanguageModel, sae: SparseAutoencoder, about: frozenset[int]) -> tuple[list[tuple[float, float]], int]:
    """([`share_about` of every refused request], number of requests). Answers are greedy and short; none is kept."""
    requests, openings = read_requests()
    shares = []
    for request in requests:
        prompt = lm.chat(request)
        answer = lm.generate([prompt], ANSWER_TOKENS, 0.0, [0])[0]
        if not lm.decode(answer).strip().lower().replace("’", "'").startswith(openings):
            continue
        logits_V = lm.last_logits_from(lm.residual(torch.tensor([prompt])), torch.tensor([prompt]))[0]
        logits_V[answer[0]] = -torch.inf
        attributed = attribute(lm, sae, Contrast(tuple(prompt), answer[0], int(logits_V.argmax())))
        shares.append(share_about(plain_pairs(attributed), about))
    return shares, len(requests)
