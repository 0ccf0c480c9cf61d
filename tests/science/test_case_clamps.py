"""Clamps against the plain forward pass, choices of doses on planted numbers, attribution against finite differences."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import FolderModel, Hook
from sae_pipeline.study_survey import CaseStudies
from sae_pipeline.survey.cases.bank import Banks
from sae_pipeline.survey.cases.build import build_case_studies
from sae_pipeline.survey.cases.case import Found, World
from sae_pipeline.survey.cases.clamp_case import ClampWorld, maxima
from sae_pipeline.survey.cases.clamping import Clamper, Dose, Prompt
from sae_pipeline.survey.cases.code_clamps import mended
from sae_pipeline.survey.cases.code_texts import Pair
from sae_pipeline.survey.cases.doses import best_dose, choose_dose, compared, rival_groups
from sae_pipeline.survey.cases.parts import PARTS
from sae_pipeline.survey.cases.pronouns import slopes
from sae_pipeline.survey.cases.yes_bias import attribution, balanced_accuracy
from sae_pipeline.survey.measurement import Measurement
from tests.tiny_steering import N_FEATURES, make_artefacts


@pytest.fixture(scope="module")
def found(tiny_model_folder, tmp_path_factory) -> ClampWorld:
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    made = make_artefacts(lm, tmp_path_factory.mktemp("clamps") / "tiny")
    sae = SparseAutoencoder.load(made.sae)
    settings = CaseStudies(n_rival_groups=3)
    world = World(lm, Banks(sae, sae), made.corpus, None, made.feature_stats, settings)  # pyright: ignore[reportArgumentType]
    return ClampWorld(world, Clamper(lm, sae, maxima(made.feature_stats, N_FEATURES)), pl.DataFrame())


def prompts_of(found: ClampWorld, texts: list[str]) -> list[Prompt]:
    lm = found.world.lm
    return [
        Prompt(text, ("choose", "report")[place % 2], lm.tokenize(text, bos=True), [5, 9], [] if place == 2 else [11])
        for place, text in enumerate(texts)
    ]


TEXTS = [
    "the ship left the harbour",
    "bread and butter",
    "a judge spoke of the law and of the trial",
    "rain",
    "the old boat",
    "a tree",
]


def test_effects_are_those_of_the_whole_model_on_every_prompt_alone(found):
    prompts, doses = prompts_of(found, TEXTS), [None, Dose(0, 2.0), Dose(2, -1.0)]
    effect = found.clamper.effect(prompts, doses, "test")
    for arm, dose in enumerate(doses):
        for place, prompt in enumerate(prompts):
            ids = torch.tensor([prompt.ids])
            edit = found.clamper.edit(dose)
            with torch.no_grad():
                if edit is None:
                    logits = found.world.lm.model(input_ids=ids).logits
                else:
                    with found.world.lm.edited(edit):
                        logits = found.world.lm.model(input_ids=ids).logits
            p = logits[0, -1].softmax(-1)
            assert effect.says_AP[arm, place] == pytest.approx(float((p[5] + p[9]).log()), abs=1e-3)
            assert effect.against_AP[arm, place] == pytest.approx(0.0 if place == 2 else float(p[11].log()), abs=1e-3)
    assert np.abs(effect.log_odds_AP[1] - effect.log_odds_AP[0]).max() > 0.01


def test_cross_entropies_are_those_of_every_text_alone(found):
    texts = [found.world.lm.tokenize(text, bos=True) for text in TEXTS]
    nats = found.clamper.nats(texts, [None, Dose(1, 3.0)], "test")
    for place, ids in enumerate(texts):
        with torch.no_grad():
            logits = found.world.lm.model(input_ids=torch.tensor([ids])).logits[0, :-1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))
        assert nats[0, place] == pytest.approx(float(expected), abs=1e-3)
    assert np.abs(nats[1] - nats[0]).max() > 1e-3


def test_the_best_affordable_dose_is_taken_and_the_cheapest_when_none_is():
    doses = [Dose(1, 2.0), Dose(1, 4.0), Dose(2, 2.0), Dose(3, 2.0)]
    score, extra = np.array([1.0, 9.0, 2.0, 50.0]), np.array([0.1, 3.0, 0.5, 0.0])
    assert best_dose(doses, score, extra, {1, 2}) == Dose(2, 2.0)
    assert best_dose(doses, score, extra + 5, {1, 2}) == Dose(1, 2.0)


def test_a_dose_is_chosen_on_half_a_alone_and_rivals_choose_alike(found):
    prompts = prompts_of(found, TEXTS)
    live = np.flatnonzero(found.clamper.maximum_F > 0)[:3].tolist()
    chosen = choose_dose(found.world, found.clamper, prompts, live, [1, 2], lambda effect: effect.log_odds_AP, "test")
    assert chosen.dose.feature in live and len(chosen.rivals) == 3 and chosen.rivals_RP.shape == (3, 3)
    assert not {dose.feature for dose in chosen.rivals} & set(live)
    half_A, half_B = prompts[::2], prompts[1::2]
    mean = {
        dose: found.clamper.effect(half_A, [dose], "test").log_odds_AP.mean()
        for dose in (Dose(feature, factor) for feature in live for factor in (1.0, 2.0))
    }
    if chosen.extra_nats <= 1.0:
        assert mean[chosen.dose] >= max(
            value for dose, value in mean.items() if _extra(found, dose) <= 1.0
        ) - 1e-6  # fmt: skip
    again = found.clamper.effect(half_B, [None, chosen.dose], "test").log_odds_AP
    np.testing.assert_allclose(chosen.change_P, again[1] - again[0], atol=1e-4)


def _extra(found: ClampWorld, dose: Dose) -> float:
    from sae_pipeline.survey.cases.prompts import load

    texts = [found.world.lm.tokenize(text, bos=True) for text in load("neutral")["texts"]]
    nats = found.clamper.nats(texts, [None, dose], "test")
    return float((nats[1] - nats[0]).mean())


def test_rivals_are_live_and_none_of_the_candidates(found):
    live = np.flatnonzero(found.clamper.maximum_F > 0)
    groups = rival_groups(found.world, live[:3].tolist(), 3)
    assert [len(group) for group in groups] == [3, 3, 3]
    assert all(unit in live[3:] for group in groups for unit in group)


def test_a_change_beyond_the_rivals_has_an_interval_above_zero_and_chance_has_not():
    random = np.random.default_rng(0)
    own, rivals = random.normal(1.0, 0.3, 30), random.normal(0.0, 0.3, (4, 30))
    assert compared(own, rivals, 0)["difference_low"] > 0.5
    chance = compared(random.normal(0.0, 0.3, 30), rivals, 0)
    assert chance["difference_low"] < 0 < chance["difference_high"]
    assert chance["difference"] == pytest.approx(chance["value"] - chance["control_value"])


def test_slopes_are_exact_on_lines():
    factors = [-4.0, -2.0, 0.0, 1.0, 4.0]
    lines = np.array([[0.5 + 0.1 * factor, 2.0 - 0.3 * factor] for factor in factors])
    np.testing.assert_allclose(slopes(lines, factors), [0.1, -0.3])


def test_a_mended_name_counts_and_a_typo_does_not():
    pair = Pair("name typo", "report", "", "", "width", "widht")
    assert mended("def f(width):\n", pair)
    assert not mended("return widht", pair) and not mended("width = widht", pair) and not mended("widths", pair)


def test_balanced_accuracy_of_always_yes_is_a_half():
    is_yes = np.array([True, True, False, False])
    assert balanced_accuracy(np.ones(4), is_yes) == 0.5
    assert balanced_accuracy(np.array([1.0, -1.0, -1.0, -1.0]), is_yes) == 0.75


def test_attribution_is_the_derivative_along_the_features(found):
    """Sum over all features of f_i (g . W_i) / s: the derivative of the log-odds when every feature grows by the same share."""
    lm, sae = found.world.lm, found.world.banks.features
    (prompt,) = prompts_of(found, [TEXTS[2]])
    total = attribution(found, [prompt]).sum()
    ids = torch.tensor([prompt.ids])
    r_BTD = lm.residual(ids)
    f_TF = sae.encode(r_BTD[0])
    f_TF[0] = 0
    f_TF[r_BTD[0].norm(dim=1) > sae.config["threshold_norm"]] = 0
    direction_TD = f_TF @ sae.W_dec_FD / sae.scale

    def log_odds(share: float) -> float:
        log_p = lm.logits_from(r_BTD + share * direction_TD, ids)[0, -1].double().log_softmax(-1)
        return float(log_p[prompt.says].logsumexp(0) - log_p[prompt.against].logsumexp(0))

    step = 1e-2
    assert abs(total) > 1e-3
    assert total == pytest.approx((log_odds(step) - log_odds(-step)) / (2 * step), rel=0.02)


def test_finished_cases_are_not_run_again(tmp_path):
    ran: list[str] = []

    def first(world) -> Found:
        ran.append("first")
        made = Found(measurements=[Measurement("one", "share", 0.5, 1, 1, size=8, control="chance", control_value=0.4)])
        made.add_items("first", "part", ["text"], ["report"], [True], [1.0], [0.0])
        made.add_chosen("first", "part", (3, 4), (0.9, 0.8), (0.7, 0.5))
        return made

    def second(world) -> Found:
        ran.append("second")
        if ran.count("second") == 1:
            raise KeyboardInterrupt
        return Found(
            measurements=[Measurement("two", "count", 5.0, 1, 1, size=8, ceiling_metric="c", ceiling=0.1, ceiling_threshold=1.0)]
        )

    world, cases = SimpleNamespace(), {"first": first, "second": second}
    with pytest.raises(KeyboardInterrupt):
        build_case_studies(world, tmp_path, cases)  # pyright: ignore[reportArgumentType]
    outcome = build_case_studies(world, tmp_path, cases)  # pyright: ignore[reportArgumentType]
    assert ran == ["first", "second", "second"] and not (tmp_path / PARTS).exists()
    assert outcome.metadata["n_measurements"] == 2 and outcome.metadata["n_not_testable"] == 1
    assert pl.read_parquet(tmp_path / "case_features.parquet")["unit"].to_list() == [3, 4]
    assert pl.read_parquet(tmp_path / "case_items.parquet").height == 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"case_studies.light.png", "case_studies.dark.png"}
