"""Every way of steering towards one concept, as arms of the generator.

Directions are pushed as far as the chosen feature is: c = factor x its training maximum, so that arms differ by where they push
and not by how hard. With two examples either side knows the two sentences alone and pushes on its own scale: the feature that
fires most clearly, in units of its maximum, and the difference of means, in units of the farthest that a token of theirs goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.generation import Arm
from sae_pipeline.steering.interventions import Positions, Push, random_directions
from sae_pipeline.steering.output_score import Candidate, says
from sae_pipeline.steering.prompts import instructions
from sae_pipeline.survey.steering.concepts import N_FEW, Topic
from sae_pipeline.survey.steering.directions import difference_of_means, first_component, probe, token_residuals
from sae_pipeline.survey.steering.features import (
    N_UNSELECTED,
    Choice,
    Direction,
    choose_direction,
    choose_feature,
    fired_for,
)

BASELINE, PROMPT_ONLY = "baseline", "prompt_only"
PROMPT_SIDE, RESPONSE_ONLY = "sae_clamp_prompt_side", "sae_clamp_response_only"
CLAMP, RANDOM, FEW_FEATURE, FEW_MEANS = "sae_clamp", "random_direction", "sae_clamp_two_examples", "means_two_examples"
BY_INPUT = "sae_clamp_by_input"
UNSELECTED = tuple(f"sae_clamp_unselected_{i}" for i in range(1, N_UNSELECTED + 1))
METHODS = (
    CLAMP, PROMPT_SIDE, RESPONSE_ONLY, "sae_add", BY_INPUT, *UNSELECTED,
    "difference_of_means", "probe", "pca", RANDOM, FEW_FEATURE, FEW_MEANS,
)  # fmt: skip
STEERED_AT: dict[str, Positions] = {PROMPT_SIDE: "prompt", RESPONSE_ONLY: "response"}  # the others: prompt and answer


def steered_at(method: str) -> Positions:
    """Where a method steers."""
    return STEERED_AT.get(method, "not_massive")


@dataclass(frozen=True)
class Steerable:
    """A concept with everything that can push towards it; `few` is the feature of its first two sentences."""

    place: int
    topic: Topic
    choice: Choice
    few: Candidate
    directions: dict[str, Direction]

    def arm(self, method: str, factor: float) -> Arm:
        """`method` at `factor`. The unit is the place of the concept."""
        features: dict[str, Candidate] = {
            **dict.fromkeys((CLAMP, PROMPT_SIDE, RESPONSE_ONLY, "sae_add"), self.choice.selected),
            BY_INPUT: self.choice.by_input, FEW_FEATURE: self.few, **dict(zip(UNSELECTED, self.choice.unselected, strict=True)),
        }  # fmt: skip
        if method in features:
            unit, mode = features[method], "add" if method == "sae_add" else "clamp"
            return Arm(method, mode, self.place, unit.feature, None, factor, Push(factor * unit.maximum, mode, unit.feature))
        return Arm(method, "add", self.place, None, None, factor, self.directions[method].push(factor))

    def asked(self) -> Arm:
        """The concept asked for in words."""
        terms = ", ".join(self.topic.concept.terms[:3])
        return Arm(PROMPT_ONLY, "none", self.place, template=instructions()[0], terms=terms)


def means_of_few(sae: SparseAutoencoder, r_PD: Tensor, r_QD: Tensor) -> Direction:
    """The difference of means on its own scale: the farthest that a token of the examples lies from the neutral mean along it,
    as a feature's scale is its largest activation (AxBench, Wu et al. 2025, scales directions alike)."""
    direction_D = difference_of_means(r_PD, r_QD)
    x_PD, x_QD = (sae.encoder_input(r_ND).x.cpu() for r_ND in (r_PD, r_QD))
    return Direction(direction_D, float(((x_PD - x_QD.mean(0)) @ direction_D).max()))


def make_steerable(
    lm: LanguageModel, sae: SparseAutoencoder, maximum_F: Tensor, topics: Sequence[Topic], neutral: Sequence[str], seed: int
) -> tuple[list[Steerable], list[str]]:
    """(concepts that can be steered, names of those for which no feature fires)."""
    threshold_norm = sae.config["threshold_norm"]
    r_QD = token_residuals(lm, neutral, threshold_norm)
    few_QD = token_residuals(lm, neutral[:N_FEW], threshold_norm)
    bank_FD = random_directions(sae.n_features, lm.d_model, torch.Generator().manual_seed(seed))
    found, missing = [], []
    for place, topic in enumerate(topics):
        r_PD = token_residuals(lm, topic.texts, threshold_norm)
        few_PD = token_residuals(lm, topic.texts[:N_FEW], threshold_norm)
        said = says(lm, topic.concept.terms)
        candidates, few = (
            [Candidate(feature, float(maximum_F[feature]), said) for feature in fired_for(sae, maximum_F, *tokens)]
            for tokens in ((r_PD, r_QD), (few_PD, few_QD))
        )
        if not candidates or not few:
            missing.append(topic.name)
            continue
        choice = choose_feature(lm, sae, candidates, seed + place)
        equal = {
            "difference_of_means": difference_of_means(r_PD, r_QD), "probe": probe(r_PD, r_QD),
            "pca": first_component(r_PD, r_QD), RANDOM: choose_direction(lm, sae, bank_FD, choice.selected, r_PD, r_QD),
        }  # fmt: skip
        directions = {name: Direction(direction_D, choice.selected.maximum, said) for name, direction_D in equal.items()}
        directions[FEW_MEANS] = means_of_few(sae, few_PD, few_QD)
        found.append(Steerable(place, topic, choice, few[0], directions))
    return found, missing
