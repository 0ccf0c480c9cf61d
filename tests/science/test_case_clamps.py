"""Clamps against the plain forward pass, choices of doses on planted numbers, attribution against finite differences."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import FolderModel, Hook
from sae_pipeline.study_survey import CaseStudies
from sae_pipeline.survey.cases.answers import self_units
from sae_pipeline.survey.cases.bank import Banks, random_bank
from sae_pipeline.survey.cases.build import build_case_studies, rival_banks
from sae_pipeline.survey.cases.case import Found, World
from sae_pipeline.survey.cases.clamp_case import ClampWorld, maxima
from sae_pipeline.survey.cases.clamping import Clamper, Dose, Prompt
from sae_pipeline.survey.cases.code_clamps import error_units, mended
from sae_pipeline.survey.cases.code_texts import Pair
from sae_pipeline.survey.cases.doses import choose_dose, compared
from sae_pipeline.survey.cases.parts import PARTS
from sae_pipeline.survey.cases.random_features import densities
from sae_pipeline.survey.cases.reading import read_banks, whole_text
from sae_pipeline.survey.cases.selection import aurocs
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
    banks = [sae, reordered(sae, TURNED), reordered(sae, list(range(N_FEATURES)))]
    return ClampWorld(world, Clamper(lm, banks, maxima(made.feature_stats, N_FEATURES)))


TURNED = list(reversed(range(N_FEATURES)))


def reordered(sae: SparseAutoencoder, order: list[int]) -> SparseAutoencoder:
    """The same units under other numbers: a control that can do whatever the features can."""
    weights = {"W_enc_FD": sae.W_enc_FD, "b_enc_F": sae.b_enc_F, "W_dec_FD": sae.W_dec_FD, "threshold_F": sae.threshold_F}
    weights = {name: weight[order] for name, weight in weights.items()}
    return SparseAutoencoder(weights | {"b_dec_D": sae.b_dec_D, "mean_D": sae.mean_D}, sae.config)


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


def test_a_dose_is_chosen_on_half_a_alone_and_rivals_choose_alike(found):
    prompts = prompts_of(found, TEXTS)
    live = np.flatnonzero(found.clamper.maximum_F > 0)[:3].tolist()
    groups = [live, [live[1]], [live[0], live[2]]]
    chosen = choose_dose(
        found.world, found.clamper, prompts, dict(enumerate(groups)), [1, 2], lambda effect: effect.log_odds_AP, "test"
    )
    assert chosen.dose.feature in live and chosen.rivals_RP.shape == (2, 3)
    assert [dose.bank for dose in chosen.rivals] == [1, 2]
    assert all(dose.unit in group for dose, group in zip(chosen.rivals, groups[1:], strict=True))
    assert all(dose.feature is None and dose.control == "random_direction" for dose in chosen.rivals)
    half_A, half_B = prompts[::2], prompts[1::2]
    mean = {
        dose: found.clamper.effect(half_A, [dose], "test").log_odds_AP.mean()
        for dose in (Dose(feature, factor) for feature in live for factor in (1.0, 2.0))
    }
    affordable = {dose: value for dose, value in mean.items() if _extra(found, dose) <= 1.0}
    assert affordable and mean[chosen.dose] >= max(affordable.values()) - 1e-6
    again = found.clamper.effect(half_B, [None, chosen.dose], "test").log_odds_AP
    np.testing.assert_allclose(chosen.change_P, again[1] - again[0], atol=1e-4)


def _extra(found: ClampWorld, dose: Dose) -> float:
    from sae_pipeline.survey.cases.prompts import load

    texts = [found.world.lm.tokenize(text, bos=True) for text in load("neutral")["texts"]]
    nats = found.clamper.nats(texts, [None, dose], "test")
    return float((nats[1] - nats[0]).mean())


def test_every_bank_goes_through_the_search(found):
    """A control that holds the features themselves under other numbers must come to the same ones."""
    positives, negatives = ["the ship left the harbour", "a sailor on the boat"], ["bread and butter", "a judge spoke of the law"]
    candidates = found.separating(positives, negatives, "test")
    own, turned, same = (candidates[bank] for bank in range(3))
    live_F = found.clamper.maximum_F > 0
    assert same == own and len(own) == 3 and live_F[own].all()
    texts = [whole_text(found.world.lm, text) for text in (*positives, *negatives)]
    pooled, _ = read_banks(found.world.lm, found.clamper.banks, texts, "test")
    np.testing.assert_allclose(pooled[1].max_IF, pooled[0].max_IF[:, TURNED], atol=1e-5)
    score_F = aurocs(pooled[1].max_IF, np.array([True, True, False, False]))
    assert min(score_F[turned]) >= np.sort(np.where(live_F, score_F, -1))[-3]
    assert found.candidates(np.where(np.arange(N_FEATURES) == 4, 1.0, -np.inf)) == ([4] if live_F[4] else [])
    for search in (error_units, self_units):
        candidates = search(found)
        assert candidates[0] == candidates[2] and 0 < len(candidates[0]) <= 3


def test_a_control_that_is_as_good_as_the_features_ties_with_them(found):
    prompts, candidates = prompts_of(found, TEXTS), found.separating(TEXTS[:1], TEXTS[1:2], "test")
    chosen = choose_dose(found.world, found.clamper, prompts, candidates, [1, 2], lambda effect: effect.log_odds_AP, "test")
    assert chosen.rivals[1] == replace(chosen.dose, bank=2)
    np.testing.assert_allclose(chosen.rivals_RP[1], chosen.after_P, atol=1e-5)
    one, turned, same = (
        found.clamper.effect(prompts, [Dose(3, 2.0, bank)], "test").log_odds_AP for bank in range(len(found.clamper.banks))
    )
    np.testing.assert_allclose(one, same, atol=1e-5)
    assert np.abs(one - turned).max() > 1e-3  # it is the bank's own direction that is clamped


def test_banks_of_random_directions_differ_and_are_as_dense_as_the_features(found):
    r_ND = found.world.lm.residual(torch.tensor(found.world.corpus.token_ids_BT).long())[:, 1:].float().flatten(0, 1)
    reader = SimpleNamespace(token_index=lambda split: torch.arange(len(r_ND)), gather=lambda index: r_ND[index])
    banks = rival_banks(replace(found.world, activations=reader))
    assert len(banks) == found.world.settings.n_rival_groups and banks[0] is found.world.banks.null
    assert not torch.allclose(banks[1].W_dec_FD, banks[2].W_dec_FD)
    density_F = densities(found.world.feature_stats, N_FEATURES)
    for bank in banks[1:]:
        # A direction that is positive more rarely than the feature fires stays at a threshold of zero.
        np.testing.assert_allclose((bank.encode(r_ND) > 0).float().mean(0).numpy(), density_F, atol=0.005)


def pushing(lm: LanguageModel, prompts: list[Prompt]) -> torch.Tensor:
    """The direction at the hook along which the log-odds of the prompts rise fastest, of length 1. D."""
    gradients = []

    def leaf(r_BTD: torch.Tensor, ids_BT, offset) -> torch.Tensor:
        gradients.append(r_BTD.detach().requires_grad_(True))
        return gradients[-1]

    for prompt in prompts:
        with torch.enable_grad(), lm.edited(leaf):
            log_p_V = lm.model(input_ids=torch.tensor([prompt.ids]), use_cache=False).logits[0, -1].log_softmax(-1)
            (log_p_V[prompt.says[0]] - log_p_V[prompt.against[0]]).backward()
    return torch.nn.functional.normalize(torch.stack([r_BTD.grad[0].sum(0) for r_BTD in gradients]).sum(0), dim=0)


@pytest.mark.parametrize("planted", [True, False])
def test_what_moves_the_answer_is_found_chosen_and_beyond_its_rivals(found, planted):
    """A feature tells ships from kitchens; its decoder is turned to what moves the answer, or left as it is."""
    world, sae = found.world, found.clamper.banks[0]
    openings = ["we saw the", "then came the", "she spoke of the", "in spring the", "he walked with the", "under a", "near the"]
    prompts = [
        Prompt(text, ("choose", "report")[place % 2], world.lm.tokenize(text, bos=True), [5], [11])
        for place, text in enumerate([*openings, *(f"{text} old" for text in openings)])
    ]
    sentences = ["the ship left the harbour", "a sailor on the boat"], ["bread and butter", "salt and flour"]
    unit = found.separating(*sentences, "test")[0][0]
    W_dec_FD = sae.W_dec_FD.clone()
    if planted:
        W_dec_FD[unit] = pushing(world.lm, prompts)
    weights = {name: getattr(sae, name) for name in ("W_enc_FD", "b_enc_F", "b_dec_D", "threshold_F", "mean_D")}
    own = SparseAutoencoder(weights | {"W_dec_FD": W_dec_FD}, sae.config)
    r_ND = world.lm.residual(torch.tensor(world.corpus.token_ids_BT).long())[:, 1:].float().flatten(0, 1)
    density_F = densities(world.feature_stats, N_FEATURES)
    banks = [own, *(random_bank(sae, r_ND, density_F, seed) for seed in range(8))]
    there = ClampWorld(world, Clamper(world.lm, banks, found.clamper.maximum_F))
    candidates = there.separating(*sentences, "test")
    assert unit in candidates[0]
    chosen = choose_dose(world, there.clamper, prompts, candidates, [0.5, 1], lambda effect: effect.log_odds_AP, "test")
    beside = compared(chosen.change_P, chosen.rival_change_RP, 0)
    assert len(chosen.rivals) == 8 and chosen.extra_nats <= 1.0
    assert (chosen.dose.unit == unit) == planted
    assert (beside["difference_low"] > 0) == planted


def test_a_mended_name_counts_and_a_typo_does_not():
    pair = Pair("name typo", "report", "", "", "width", "widht", "one")
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
    total_KF = attribution(found, [prompt])
    np.testing.assert_allclose(total_KF[1], total_KF[0][TURNED], atol=1e-5)
    total = total_KF[0].sum()
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
