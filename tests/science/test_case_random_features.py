"""Random features beside a chosen one: of its density, never it, and only as good as they are planted to be."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from assets.case_clamps import changes_recomputed
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import FolderModel, Hook
from sae_pipeline.study_survey import CaseStudies
from sae_pipeline.survey.cases import selection, self_features, zero_shot_chat
from sae_pipeline.survey.cases.bank import Banks
from sae_pipeline.survey.cases.case import Found, World
from sae_pipeline.survey.cases.clamp_case import Clamped, ClampWorld, maxima
from sae_pipeline.survey.cases.clamping import Clamper, Dose, Prompt
from sae_pipeline.survey.cases.counts import Labelled, tally
from sae_pipeline.survey.cases.doses import choose_dose, compared
from sae_pipeline.survey.cases.multilingual import own_ranks, reciprocal_ranks
from sae_pipeline.survey.cases.random_features import SUFFIX, best_of_groups, live_densities, matched, with_random_features
from sae_pipeline.survey.cases.selection import bootstrap
from sae_pipeline.survey.measurement import Measurement, write_measurements
from tests.science.planted_cases import planted_world
from tests.tiny_steering import N_FEATURES, make_artefacts

# --- the draw


def test_random_features_are_live_as_dense_and_never_a_candidate():
    random = np.random.default_rng(0)
    density_F, live_F = 10 ** random.uniform(-5, -1, 5000), random.random(5000) < 0.8
    units, never = np.flatnonzero(live_F)[[3, 700, 2100]].tolist(), np.flatnonzero(live_F)[1000:1400].tolist()
    drawn_UN = matched(density_F, live_F, units, 60, never, seed=0)
    assert drawn_UN.shape == (3, 60) and live_F[drawn_UN].all() and not np.isin(drawn_UN, [*units, *never]).any()
    assert all(len(set(row)) == 60 for row in drawn_UN.tolist())
    # 200 of some 3,600 over four decades: less than a quarter of a decade, half of it to each side.
    assert (np.abs(np.log10(density_F[drawn_UN] / density_F[units][:, None])) < 0.2).all()
    np.testing.assert_array_equal(drawn_UN, matched(density_F, live_F, units, 60, never, seed=0))
    assert not np.array_equal(drawn_UN, matched(density_F, live_F, units, 60, never, seed=1))


def test_the_densest_and_the_rarest_find_neighbours_and_a_dictionary_without_others_has_none():
    density_F, live_F = np.linspace(0.001, 1.0, 1000), np.ones(1000, bool)
    rarest, densest = matched(density_F, live_F, [0, 999], 100, (), seed=0)
    assert rarest.min() > 0 and rarest.max() <= 200 and densest.min() >= 799 and densest.max() < 999
    few = matched(density_F, live_F, [500], 30, range(10, 1000), seed=0)
    assert few.shape == (1, 30) and set(few[0]) <= set(range(10))
    nothing = matched(density_F, live_F, [4, 5], 30, range(1000), seed=0)
    assert nothing.shape == (2, 0) and best_of_groups([density_F] * 2, nothing.reshape(2, -1, 3)).shape == (0, 2)


def test_of_each_group_the_best_on_half_a_is_taken():
    score_UF = [np.arange(10.0), -np.arange(10.0)]
    drawn_URK = np.array([[[1, 7, 2], [4, 0, 3]], [[5, 9, 6], [8, 2, 3]]])
    assert best_of_groups(score_UF, drawn_URK).tolist() == [[7, 5], [4, 2]]


# --- the measurement beside them


def test_a_feature_alone_stands_out_and_one_of_many_does_not():
    random = np.random.default_rng(0)
    positive, groups = np.arange(120) % 2 == 1, (np.arange(120) // 2).tolist()
    chance_IR = random.random((120, 20))
    value = positive + 0.3 * random.random(120)
    own, _, _ = selection.tested(value, chance_IR[:, 0], positive, groups, 0)
    alone = selection.tested_beside(value, chance_IR, positive, groups, 0)
    assert alone is not None and own.value == 1.0 and alone["difference_low"] > 0.3
    assert alone["control_value"] == pytest.approx(0.5, abs=0.05)
    assert alone["difference"] == pytest.approx(own.value - alone["control_value"])
    same = selection.tested_beside(value, np.repeat(value[:, None], 20, axis=1), positive, groups, 0)
    assert same == {"control_value": 1.0, "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    assert selection.tested_beside(value, chance_IR[:, :0], positive, groups, 0) is None


def test_each_resample_stands_beside_one_rival_and_not_their_mean():
    """Half of the rivals do the same, half nothing: the difference is now 0, now all, and never what lies between."""
    positive = np.arange(40) % 2 == 1
    rival_IR = np.where(np.arange(10) < 5, positive[:, None].astype(float), 0.0)
    beside = selection.tested_beside(positive.astype(float), rival_IR, positive, list(range(40)), 0)
    assert beside == {"control_value": 0.75, "difference": 0.25, "difference_low": 0.0, "difference_high": 0.5}
    active_U = np.ones(40, bool)
    assert zero_shot_chat._beside(active_U, np.tile(np.arange(10)[:, None] < 5, 40), 0) == {
        "control_value": 20.0, "difference": 20.0, "difference_low": 0.0, "difference_high": 40.0,
    }  # fmt: skip


def test_one_detection_of_many_alike_is_rarely_beyond_the_others():
    """Twenty-one exchangeable units on the same items: the first may count as special in about one case of twenty-one."""
    positive, groups, n_special = np.arange(60) % 2 == 1, list(range(60)), 0
    for trial in range(20):
        random = np.random.default_rng(trial)
        value_IU = random.normal(0.0, 1.0, (60, 21)) + positive[:, None] * random.normal(0.0, 1.0, 21)
        beside = selection.tested_beside(value_IU[:, 0], value_IU[:, 1:], positive, groups, trial)
        assert beside is not None
        n_special += beside["difference_low"] > 0
    assert n_special <= 3


def test_the_twin_has_the_same_value_and_a_threshold_of_its_own_control(tmp_path):
    main = Measurement(
        "one", "share", 0.7, 10, 12, 8, 0.6, 0.8, "directions", 0.5, 0.2, 0.1, 0.3, ceiling_metric="probe", ceiling=0.1,
        ceiling_threshold=0.5, why="so", files_sha="f", rows="case_items", figure="case_studies",
    )  # fmt: skip
    beside = {"value": 9.0, "control_value": 0.4, "difference": 0.3, "difference_low": 0.2, "difference_high": 0.35}
    again, twin = with_random_features(main, beside)
    assert again == replace(main, why="so; random features 0.4")
    assert twin == replace(
        main, measurement="one" + SUFFIX, control=twin.control, control_value=0.4, difference=0.3, difference_low=0.2,
        difference_high=0.35,
    )  # fmt: skip
    alone, missing = with_random_features(replace(main, measurement="two", ceiling=0.9), None)
    assert (
        alone == replace(main, measurement="two", ceiling=0.9)
        and missing.status == "too_few_examples"
        and missing.control_value is None
    )
    written = write_measurements(tmp_path, "case_studies", [again, twin, alone, missing])
    assert written["status"].to_list() == ["not_testable", "not_testable", "ok", "not_testable"]
    assert written["why"][3] == "live features that the case did not choose is 0, below 1; so"


def test_the_existing_bootstrap_draws_as_before():
    """Drawn by hand: one generator, the kinds of groups in the order of their first item."""
    positive, groups = np.array([False, True, False, True, False, False, True]), [0, 0, 1, 1, 2, 3, 4]
    value = np.random.default_rng(3).random(7)
    kinds = [[[0, 1], [2, 3]], [[4], [5]], [[6]]]
    random, means = np.random.default_rng(5), []
    for _ in range(1000):
        drawn = [members[i] for members in kinds for i in random.integers(0, len(members), len(members))]
        means.append(value[np.concatenate(drawn)].mean())
    found = bootstrap(groups, lambda at: float(value[at].mean()), 5, positive)
    assert [found.low, found.high] == np.percentile(means, [2.5, 97.5]).tolist() and found.value == value.mean()


# --- single cases


def test_arms_of_one_bank_are_counted_as_if_alone(artefacts):
    lm, made = artefacts
    sae, r_ND = SparseAutoencoder.load(made.sae), lm.residual(torch.tensor(made.corpus.token_ids_BT[:1]).long())[0].float()
    batch = Labelled(r_ND, np.arange(len(r_ND))[:, None] % 2 == np.array([[0, 1]]), np.arange(len(r_ND)) // 5)
    n_groups = len(r_ND) // 5 + 1
    together = tally([(sae, [0, 1]), (sae, [3, 2]), (sae, [5, 5])], [batch], n_groups)
    for units, counted in zip(([0, 1], [3, 2], [5, 5]), together, strict=True):
        (alone,) = tally([(sae, units)], [batch], n_groups)
        np.testing.assert_array_equal(alone.hits_GL, counted.hits_GL)
        np.testing.assert_array_equal(alone.fires_GL, counted.fires_GL)


def test_ranks_of_given_units_are_those_of_the_chosen_ones():
    mean_CGF = np.random.default_rng(0).random((5, 4, 30))
    chosen_C, _, rank_CCG = reciprocal_ranks(mean_CGF)
    np.testing.assert_array_equal(own_ranks(mean_CGF, chosen_C), np.einsum("ccg->cg", rank_CCG))


def test_self_features_stand_beside_random_ones_that_need_not_pass_on_half_a(tmp_path):
    _, about_self_I, choose_I = self_features.questions()
    value_IF = np.zeros((len(about_self_I), 30))
    value_IF[about_self_I, :4] = 1.0  # four pass and hold
    for others, expected in ((0.0, 0.0), (1.0, 4.0)):
        value_IF[about_self_I & ~choose_I, 4:] = others  # the others are silent on half A, so that no search finds them
        main, twin = self_features.run(planted_world(value_IF, tmp_path)).measurements
        assert main.value == twin.value == 4.0 and twin.control_value == expected and main.control_value == 0.0
        assert twin.difference_low == twin.difference_high == 4.0 - expected
    rows = pl.DataFrame(self_features.run(planted_world(value_IF, tmp_path)).chosen).filter(pl.col("control") == "random_feature")
    assert rows.height == 80 and rows["unit"].min() == 4  # pyright: ignore[reportOperatorIssue]


def test_features_silent_on_dialogues_stand_beside_those_that_are_not():
    active_U = np.arange(50) < 20
    beside = zero_shot_chat._beside(active_U, np.tile(active_U, (20, 1)), 0)
    assert beside == {"control_value": 20.0, "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    beside = zero_shot_chat._beside(active_U, np.ones((20, 50), bool), 0)
    assert beside is not None and beside["difference"] == -30.0 and beside["difference_high"] < -20
    assert zero_shot_chat._beside(active_U, np.zeros((0, 50), bool), 0) is None


# --- clamps


@pytest.fixture(scope="module")
def artefacts(tiny_model_folder, tmp_path_factory):
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    return lm, make_artefacts(lm, tmp_path_factory.mktemp("random_features") / "tiny")


@pytest.fixture(scope="module")
def found(artefacts) -> ClampWorld:
    lm, made = artefacts
    sae, settings = SparseAutoencoder.load(made.sae), CaseStudies(n_rival_groups=2)
    world = World(lm, Banks(sae, sae), made.corpus, None, made.feature_stats, settings)  # pyright: ignore[reportArgumentType]
    return ClampWorld(world, Clamper(lm, [sae, sae, sae], maxima(made.feature_stats, N_FEATURES)))


def test_groups_of_random_features_stand_in_place_of_the_candidates(found):
    candidates = found.separating(["the ship left the harbour"], ["bread and butter"], "test")
    assert list(candidates) == [0, 1, 2, -1, -2] and candidates[0] == candidates[1] == candidates[2]
    _, live_F = live_densities(found.world.feature_stats, N_FEATURES)
    for group in (-1, -2):
        assert len(candidates[group]) == len(candidates[0]) and not set(candidates[group]) & set(candidates[0])
        assert live_F[candidates[group]].all()


def test_a_random_feature_that_does_the_same_ties_and_the_directions_stay_as_they_were(found, tmp_path):
    lm = found.world.lm
    texts = ["the ship left the harbour", "bread and butter", "a judge spoke of the law", "rain", "the old boat", "a tree"]
    prompts = [
        Prompt(text, ("choose", "report")[at % 2], lm.tokenize(text, bos=True), [5, 9], [11]) for at, text in enumerate(texts)
    ]
    first, *others = np.flatnonzero(found.clamper.maximum_F > 0).tolist()

    def chosen(candidates: dict[int, list[int]]):
        return choose_dose(found.world, found.clamper, prompts, candidates, [2], lambda effect: effect.log_odds_AP, "test")

    without = chosen({0: [first], 1: [others[0]], 2: [others[1]]})
    both = chosen({0: [first], 1: [others[0]], 2: [others[1]], -1: [first], -2: [first]})
    apart = chosen({0: [first], 1: [others[0]], 2: [others[1]], -1: [others[0]], -2: [others[1]]})
    assert both.dose == without.dose and both.rivals == without.rivals and not without.random
    for name in ("before_P", "after_P", "rivals_RP"):
        np.testing.assert_array_equal(getattr(both, name), getattr(without, name))
    assert [dose.control for dose in both.random] == ["random_feature"] * 2 and both.random[0].feature == first
    np.testing.assert_allclose(both.random_change_RP, np.tile(both.change_P, (2, 1)), atol=1e-6)
    np.testing.assert_allclose(apart.random_change_RP, apart.rival_change_RP, atol=1e-6)
    assert Dose(first, 2.0).control == "none" and Dose(first, 2.0, 1).feature is None
    made = Clamped()
    for name, doses in (("tied", both), ("specific", apart)):
        made.add(found, "case", name, "change of log P(this) - log P(that)", prompts, doses)
    rows = {each.measurement: each for each in made.measurements}
    assert rows["tied" + SUFFIX].difference == pytest.approx(0, abs=1e-6) and len(rows) == 4
    for name, doses in (("tied", both), ("specific", apart)):
        expected = compared(doses.change_P, doses.rival_change_RP, found.world.seed)
        assert {field: getattr(rows[name], field) for field in expected} == expected
        expected = compared(doses.change_P, doses.random_change_RP, found.world.seed)
        assert {field: getattr(rows[name + SUFFIX], field) for field in expected} == expected
    assert rows["specific" + SUFFIX].difference == pytest.approx(rows["specific"].difference, abs=1e-6)
    write_measurements(tmp_path, "case_clamps", made.measurements)
    pl.DataFrame(made.doses).write_parquet(tmp_path / "case_doses.parquet")
    assert changes_recomputed(tmp_path).passed
    pl.DataFrame(made.doses).with_columns(
        after=pl.col("after") + (pl.col("control") == "random_feature").cast(pl.Float64)
    ).write_parquet(tmp_path / "case_doses.parquet")
    assert not changes_recomputed(tmp_path).passed


def test_rows_of_random_features_carry_their_group():
    made = Found()
    made.add_random("case", "part", np.array([4, 2]), np.array([0.1, 0.2, 0.3, 0.4, 0.5]), [0.6, 0.7])
    assert [(row["control"], row["unit"], row["rank"], row["score_choose"], row["score_report"]) for row in made.chosen] == [
        ("random_feature", 4, 1, 0.5, 0.6), ("random_feature", 2, 2, 0.3, 0.7),
    ]  # fmt: skip
