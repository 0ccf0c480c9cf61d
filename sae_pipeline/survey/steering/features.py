"""Which feature stands for a concept: candidates by where they fire, the choice among them by what they make the model say.

Random directions, as many as there are features, go through both steps, too: the control is the best among nothing.

Shape legend: N tokens, D model width, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import Push
from sae_pipeline.steering.output_score import Candidate, fine_scores

N_CANDIDATES = 16
N_UNSELECTED = 4  # of these drawn at random: all of them would take more generated text than the whole survey may


@dataclass(frozen=True)
class Choice:
    """Of a concept's candidates: `selected` by output score, `by_input` the one that fires most clearly, `unselected` any
    `N_UNSELECTED`, drawn at random without regard to either."""

    selected: Candidate
    by_input: Candidate
    unselected: tuple[Candidate, ...]


@dataclass(frozen=True)
class Direction:
    """A direction that is added: `strength` x factor, in scaled units. `says`: see `Candidate`; for output scores only."""

    direction_D: Tensor
    strength: float
    says: Sequence[int] = ()

    def push(self, factor: float) -> Push:
        """The direction added."""
        return Push(factor * self.strength, "add", direction_D=self.direction_D)


def choose_direction(
    lm: LanguageModel, sae: SparseAutoencoder, bank_FD: Tensor, like: Candidate, r_PD: Tensor, r_QD: Tensor
) -> Tensor:
    """The one of the directions `bank_FD` that the steps of `fired_for` and `choose_feature` come to, as strong as `like`."""
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


def fired_for(sae: SparseAutoencoder, maximum_F: Tensor, r_PD: Tensor, r_QD: Tensor) -> list[int]:
    """The features that fire more on the concept's tokens than on the neutral ones, clearest first, `N_CANDIDATES` at most.

    `maximum_F`: training maxima. A feature's claim is the difference of its mean activations, in units of its maximum. No word of
    the concept is looked at.
    """
    claim_F = (mean_activation(sae, r_PD) - mean_activation(sae, r_QD)) / maximum_F.clamp(min=1e-6)
    claim_F[maximum_F <= 0] = 0
    value_C, feature_C = claim_F.topk(min(N_CANDIDATES, sae.n_features))
    return feature_C[value_C > 0].tolist()


def choose_feature(lm: LanguageModel, sae: SparseAutoencoder, candidates: Sequence[Candidate], seed: int) -> Choice:
    """`candidates`: those of a concept, clearest first. `seed` draws the unselected ones, the selected one not excluded; where
    there are fewer candidates than draws, they come again.

    Raises `IndexError` for no candidates.
    """
    scores = fine_scores(lm, sae, candidates)
    drawn = np.resize(np.random.default_rng(seed).permutation(len(candidates)), N_UNSELECTED)
    return Choice(candidates[_first_best(scores)], candidates[0], tuple(candidates[i] for i in drawn.tolist()))
