"""What the steering comparison holds features against goes through the same choices; doses are read where nothing was chosen."""

import pytest
import torch

from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.output_score import Candidate, says
from sae_pipeline.steering.prompts import load_prompts, output_score_texts, output_score_turn
from sae_pipeline.study import FolderModel, Hook
from sae_pipeline.survey.steering.concepts import read_openings, read_topics
from sae_pipeline.survey.steering.dose_results import random_groups
from sae_pipeline.survey.steering.features import N_CANDIDATES, best_of_groups, choose_direction, choose_feature
from tests.tiny_steering import make_artefacts

STRENGTH = 3.0


@pytest.fixture(scope="module")
def made(tiny_model_folder, tmp_path_factory):
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    return make_artefacts(lm, tmp_path_factory.mktemp("controls") / "tiny")


def test_a_random_direction_is_chosen_by_where_it_points_and_by_what_it_says(made):
    lm, sae = made.lm, SparseAutoencoder.load(made.sae)
    draw, said = torch.Generator().manual_seed(0), says(made.lm, ["ship"])
    speaks_D = torch.nn.functional.normalize(lm.unembedding_DV[:, said].sum(1), dim=0)
    bank_FD = torch.nn.functional.normalize(torch.randn(40, lm.d_model, generator=draw), dim=1)
    bank_FD[7], bank_FD[8] = speaks_D, -speaks_D
    r_QD = torch.randn(30, lm.d_model, generator=draw)
    like = Candidate(0, STRENGTH, said)
    # Half of the concept's direction is the one that speaks, half another: both are candidates, and the words decide.
    towards_D = speaks_D + bank_FD[20]
    torch.testing.assert_close(choose_direction(lm, sae, bank_FD, like, r_QD + 5 * towards_D, r_QD), bank_FD[7])
    # Where it points away from the concept it is no candidate, whatever it says.
    away_D = choose_direction(lm, sae, bank_FD, like, r_QD - 5 * speaks_D, r_QD)
    assert not torch.equal(away_D, bank_FD[7])


def test_rivals_are_the_best_of_groups_that_share_no_feature(made):
    lm, sae = made.lm, SparseAutoencoder.load(made.sae)
    said = says(lm, ["ship"])
    direction_D = lm.unembedding_DV[:, said[0]]
    sae.W_dec_FD[7] = direction_D / direction_D.norm()
    own = [Candidate(0, 1.0, said), Candidate(1, 1.0, said)]
    maximum_F = torch.full((sae.n_features,), 0.5)
    maximum_F[3] = 0.0
    groups = random_groups(maximum_F, own, seed=0)
    features = [candidate.feature for group in groups for candidate in group]
    assert len(groups) == 2 and len(features) == len(set(features)) and 3 not in features
    assert [len(group) for group in groups] == [min(N_CANDIDATES, (sae.n_features - 1) // 2)] * 2
    with_planted = [[Candidate(feature, 0.5, said) for feature in (5, 6, 7)], [Candidate(7, 0.5, said), Candidate(9, 0.5, said)]]
    assert [each.feature for each in best_of_groups(lm, sae, with_planted)] == [7, 7]


def test_among_its_candidates_the_feature_is_chosen_by_what_it_says(made):
    lm, sae = made.lm, SparseAutoencoder.load(made.sae)
    said = says(lm, ["ship"])
    direction_D = lm.unembedding_DV[:, said[0]]
    sae.W_dec_FD[7] = direction_D / direction_D.norm()
    choice = choose_feature(lm, sae, [Candidate(feature, 0.5, said) for feature in (5, 6, 7)], seed=0)
    assert (choice.selected.feature, choice.by_input.feature) == (7, 5) and {each.feature for each in choice.unselected} == {
        5,
        6,
        7,
    }


def test_doses_are_read_along_texts_that_chose_nothing_and_name_no_concept():
    turn, texts = read_openings()
    assert turn != output_score_turn() and len(texts) == len(set(texts)) >= 3
    assert not set(texts) & {*output_score_texts(), *(prompt.text for prompt in load_prompts(24))}
    topics, _ = read_topics(30)
    assert not [(topic.name, text) for topic in topics for text in texts if topic.concept.in_text(text)]
