"""Directions and features of the steering comparison on planted cases: what each way of choosing finds."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.concepts import Concept
from sae_pipeline.steering.output_score import Candidate
from sae_pipeline.survey.steering.concepts import read_topics
from sae_pipeline.survey.steering.cost import CAPABILITY_FACTORS, sweet_spot
from sae_pipeline.survey.steering.directions import difference_of_means, first_component, probe
from sae_pipeline.survey.steering.features import N_CANDIDATES, choose_feature, fired_for, mean_activation
from sae_pipeline.survey.steering.methods import (
    FEW_FEATURE,
    FEW_MEANS,
    make_steerable,
    means_of_few,
)
from sae_pipeline.survey.steering.results import on_target
from tests.tiny_steering import N_FEATURES


@pytest.mark.parametrize("method", [difference_of_means, probe, first_component])
def test_every_direction_finds_the_one_that_was_planted(method):
    draw = torch.Generator().manual_seed(0)
    planted_D = torch.nn.functional.normalize(torch.randn(24, generator=draw), dim=0)
    # The concept's tokens carry the direction at varying strength; nothing else differs.
    strength_P = 4 + 2 * torch.rand(400, generator=draw)
    r_PD = 0.5 * torch.randn(400, 24, generator=draw) + strength_P[:, None] * planted_D
    r_QD = 0.5 * torch.randn(400, 24, generator=draw)
    direction_D = method(r_PD, r_QD)
    assert direction_D.norm() == pytest.approx(1, abs=1e-5)
    assert float(direction_D @ planted_D) > 0.95
    swapped_D = method(r_QD, r_PD)
    assert float(swapped_D @ planted_D) < 0  # it points towards the first


def test_mean_activation_is_that_of_the_dense_codes(tiny_artefacts):
    sae = SparseAutoencoder.load(tiny_artefacts.sae)
    r_ND = torch.randn(50, sae.d_model, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mean_activation(sae, r_ND), sae.encode(r_ND).mean(0))


def test_on_target_share_of_pure_and_of_spread_effects():
    assert on_target(np.eye(5)).tolist() == [1.0] * 5
    assert on_target(np.zeros((5, 5))).tolist() == [0.0] * 5
    assert on_target(np.ones((5, 5))).tolist() == [0.0] * 5  # everything rises: nothing is on target
    half = np.diag([1.0, 1.0, 0.0, 0.0])
    assert on_target(half).mean() == 0.5


def test_sweet_spot_ends_at_the_first_factor_that_costs_too_much():
    def spot(cost: dict[float, float]):
        return sweet_spot(0.9, np.array([0.9 - cost.get(factor, 0.0) for factor in CAPABILITY_FACTORS]))

    assert spot({}) == (-5.0, 5.0)
    assert spot({2.0: 0.1}) == (-5.0, 1.0)  # 5 costs nothing, but lies beyond one that does
    assert spot({0.5: 0.03, -0.5: 0.03}) == (-0.25, 0.25)
    assert spot({0.1: 0.03, -0.25: 0.03}) == (-0.1, 0.0)
    assert spot({-1.0: 0.0199, -2.0: 0.0201}) == (-1.0, 5.0)


def test_candidates_are_those_that_fire_more_on_the_concept_clearest_first(tiny_artefacts):
    sae = SparseAutoencoder.load(tiny_artefacts.sae)
    draw = torch.Generator().manual_seed(0)
    r_QD = sae.mean_D + 0.01 * torch.randn(60, sae.d_model, generator=draw)
    r_PD = r_QD + 20 * sae.W_dec_FD[9] + 5 * sae.W_dec_FD[4]
    maximum_F = torch.full((N_FEATURES,), 10.0)
    claim_F = ((sae.encode(r_PD) - sae.encode(r_QD)).mean(0) / maximum_F).tolist()
    found = fired_for(sae, maximum_F, r_PD, r_QD)
    assert found[0] == 9 and 0 < len(found) <= N_CANDIDATES
    positive = sorted((claim for claim in claim_F if claim > 0), reverse=True)
    assert [claim_F[feature] for feature in found] == positive[:N_CANDIDATES]
    maximum_F[9] = 0  # never active in training
    assert 9 not in fired_for(sae, maximum_F, r_PD, r_QD)
    assert fired_for(sae, maximum_F, r_QD, r_QD) == []


def test_the_unselected_feature_is_any_candidate_and_the_selected_one_the_best(monkeypatch):
    candidates = [Candidate(feature, 1.0, [5]) for feature in (11, 12, 13, 14)]
    score = {11: 0.1, 12: 0.0, 13: 0.4, 14: 0.2}
    monkeypatch.setattr(
        "sae_pipeline.survey.steering.features.fine_scores", lambda lm, sae, asked: [score[each.feature] for each in asked]
    )
    choices = [choose_feature(None, None, candidates, seed) for seed in range(400)]  # pyright: ignore[reportArgumentType]
    assert {(choice.selected.feature, choice.by_input.feature) for choice in choices} == {(13, 11)}
    assert all(
        {each.feature for each in choice.unselected} == set(score) for choice in choices
    )  # as many as there are, each once
    drawn = [choice.unselected[0].feature for choice in choices]
    assert all(70 <= drawn.count(feature) <= 130 for feature in score)
    few = choose_feature(None, None, candidates[:2], 0)  # pyright: ignore[reportArgumentType]
    assert sorted(each.feature for each in few.unselected) == [11, 11, 12, 12]
    assert choose_feature(None, None, candidates, 3) == choices[3]  # pyright: ignore[reportArgumentType]


def test_a_few_examples_give_either_side_the_sentences_and_no_words(tiny_artefacts):
    lm, sae = tiny_artefacts.lm, SparseAutoencoder.load(tiny_artefacts.sae)
    maximum = pl.read_parquet(tiny_artefacts.feature_stats / "features.parquet")["max_activation"].to_numpy()
    maximum_F = torch.from_numpy(maximum.astype(np.float32))
    topics, neutral = read_topics(3)
    other = [replace(topic, concept=Concept(("harbour", "boat"))) for topic in topics]
    (told, _), (untold, _) = (make_steerable(lm, sae, maximum_F, each, neutral, 0) for each in (topics, other))
    assert len(told) == len(untold) > 0
    for one, two in zip(told, untold, strict=True):
        assert one.few.feature == two.few.feature
        factors = [each.arm(method, 1.5) for each in (one, two) for method in (FEW_FEATURE, FEW_MEANS)]
        assert [arm.factor for arm in factors] == [1.5] * 4
        pushed = [each.arm(FEW_MEANS, 1.5).push for each in (one, two)]
        assert pushed[0] and pushed[1] and pushed[0].value == pushed[1].value
        torch.testing.assert_close(pushed[0].direction_D, pushed[1].direction_D)
        few = one.arm(FEW_FEATURE, 1.5).push
        assert few and few.value == pytest.approx(1.5 * maximum[few.feature])


def test_a_difference_of_means_reaches_as_far_as_the_farthest_token(tiny_artefacts):
    sae = SparseAutoencoder.load(tiny_artefacts.sae)
    axis_D = torch.nn.functional.one_hot(torch.tensor(2), sae.d_model).float()
    r_QD = torch.zeros(4, sae.d_model)
    made = means_of_few(sae, torch.tensor([1.0, 2.0, 6.0])[:, None] * axis_D, r_QD)
    torch.testing.assert_close(made.direction_D, axis_D)
    assert made.strength == pytest.approx(6.0 * sae.scale, rel=1e-5)
    assert made.push(0.5).value == pytest.approx(3.0 * sae.scale, rel=1e-5)
