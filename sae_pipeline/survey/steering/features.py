"""Which feature stands for a concept: candidates by where they fire, the choice among them by what they make the model say.

Random directions, as many as there are features, go through both steps, too: the control is the best among nothing.

Shape legend: N tokens, D model width, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.concepts import Concept
from sae_pipeline.steering.interventions import Push
from sae_pipeline.steering.output_score import Candidate, fine_scores, says

N_CANDIDATES = 16


@dataclass(frozen=True)
class Choice:
    """`selected` by output score among the candidates, `unselected`: the candidate that fires most clearly; and their scores."""

    selected: Candidate
    unselected: Candidate
    output_score: float
    unselected_output_score: float


@dataclass(frozen=True)
class Direction:
    """A direction that is pushed as far as a feature is: `strength` x factor, in scaled units. `says`: see `Candidate`."""

    direction_D: Tensor
    strength: float
    says: Sequence[int]

    def push(self, factor: float) -> Push:
        """The direction added."""
        return Push(factor * self.strength, "add", direction_D=self.direction_D)


def choose_direction(
    lm: LanguageModel, sae: SparseAutoencoder, bank_FD: Tensor, like: Candidate, r_PD: Tensor, r_QD: Tensor
) -> Tensor:
    """The one of the directions `bank_FD` that the steps of `choose_feature` come to, pushed as hard as the feature `like`."""
    claim_F = bank_FD @ (r_PD.mean(0) - r_QD.mean(0))
    best_C = claim_F.topk(min(N_CANDIDATES, len(bank_FD))).indices
    scores = fine_scores(lm, sae, [Direction(bank_FD[c], like.maximum, like.says) for c in best_C.tolist()])
    return bank_FD[best_C[_first_best(scores)]]


def best_of_groups(lm: LanguageModel, sae: SparseAutoencoder, groups: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """Of each group the candidate of the best output score."""
    scores = fine_scores(lm, sae, [candidate for group in groups for candidate in group])
    best, first = [], 0
    for group in groups:
        best.append(group[_first_best(scores[first : first + len(group)])])
        first += len(group)
    return best


def _first_best(scores: Sequence[float]) -> int:
    """Place of the highest score; of equal ones the first."""
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def mean_activation(sae: SparseAutoencoder, r_ND: Tensor) -> Tensor:
    """Mean activation of every feature over the tokens, F values, float32."""
    codes = sae.encode_sparse(r_ND)
    total_F = torch.zeros(sae.n_features)
    total_F.index_add_(0, codes.feature.long(), codes.value.float())
    return total_F / len(r_ND)


def choose_feature(
    lm: LanguageModel, sae: SparseAutoencoder, maximum_F: Tensor, concept: Concept, r_PD: Tensor, r_QD: Tensor,
    known: dict[int, float],
) -> Choice | None:  # fmt: skip
    """None when no feature fires more on the concept's tokens than on the neutral ones.

    `maximum_F`: training maxima. A feature's claim is the difference of its mean activations, in units of its maximum.
    `known`: output scores of features for this concept; those that are missing are computed and added.
    """
    claim_F = (mean_activation(sae, r_PD) - mean_activation(sae, r_QD)) / maximum_F.clamp(min=1e-6)
    claim_F[maximum_F <= 0] = 0
    value_C, feature_C = claim_F.topk(min(N_CANDIDATES, sae.n_features))
    said: Sequence[int] = says(lm, concept.terms)
    candidates = [
        Candidate(feature, float(maximum_F[feature]), said)
        for feature, value in zip(feature_C.tolist(), value_C.tolist(), strict=True)
        if value > 0
    ]
    if not candidates:
        return None
    missing = [candidate for candidate in candidates if candidate.feature not in known]
    if missing:
        known.update(zip((candidate.feature for candidate in missing), fine_scores(lm, sae, missing), strict=True))
    scores = [known[candidate.feature] for candidate in candidates]
    best = _first_best(scores)
    return Choice(candidates[best], candidates[0], scores[best], scores[0])
