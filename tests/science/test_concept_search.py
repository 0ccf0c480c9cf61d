"""Searches on a model whose SAE has one feature per topic: the planted feature is found, random directions stay behind."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.api import open_study
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import FolderModel, Hook
from sae_pipeline.survey.search.banks import Bank, direction_bank, feature_bank
from sae_pipeline.survey.search.concepts import Concept, Words, concepts_sha, read_concepts, read_words
from sae_pipeline.survey.search.contrast_and_sort import Profile, contrastive, sort
from sae_pipeline.survey.search.families import search
from sae_pipeline.survey.search.few_features import accuracies
from sae_pipeline.survey.search.find import find_features
from sae_pipeline.survey.search.known_words import KnownWord, known_words, searched_word, word_rows
from sae_pipeline.survey.search.methods import METHODS, classifier, geometry, prompt_sets
from sae_pipeline.survey.search.probes import DataSet, probe
from sae_pipeline.survey.search.reading import Read, means, read_text, read_texts
from sae_pipeline.survey.thresholds import thresholds
from tests.conftest import TOPICS
from tests.tiny_steering import make_artefacts

SHIPPED = Path(__file__).parents[2] / "concepts"


def phrase(topic: str, start: int, n_words: int) -> str:
    words = TOPICS[topic]
    return " ".join(f"the {words[(start + i) % len(words)]}" for i in range(n_words))


def concept(topic: str = "harbour", rival: str = "kitchen") -> Concept:
    sides = [[phrase(each, start, n) for start in range(6)] for n in (3, 4) for each in (topic, rival)]
    held_out = {"positives": sides[2], "negatives": sides[3]}
    return Concept.model_validate({
        "name": topic, "family": "topics", "safety": True, "label": "a", "other": "b", "positives": sides[0],
        "negatives": sides[1], "held_out": held_out,
    })  # fmt: skip


def _searched() -> tuple[list[str], list[str]]:
    return concept().positives, concept().negatives


@pytest.fixture(scope="module")
def made(tiny_model_folder, tmp_path_factory):
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    return make_artefacts(lm, tmp_path_factory.mktemp("search") / "tiny")


@pytest.fixture(scope="module")
def banks(made) -> tuple[Bank, Bank]:
    sae = SparseAutoencoder.load(made.sae)
    r_ND = made.lm.residual(torch.tensor(made.corpus.token_ids_BT[:40]).long())[:, 1:].reshape(-1, sae.d_model)
    # Feature 0 is planted: the difference of the searched texts, half hidden under something else.
    of = [means(feature_bank(sae), read_texts(made.lm, feature_bank(sae), texts, True)).mean(0) for texts in _searched()]
    direction_D = torch.nn.functional.normalize(torch.from_numpy(of[0] - of[1]), dim=0) + 0.5 * sae.W_dec_FD[5]
    sae.W_dec_FD[0] = direction_D / direction_D.norm()
    return feature_bank(sae), direction_bank(sae, r_ND, np.full(sae.n_features, 0.04), seed=0)


def test_random_directions_have_the_densities_they_were_given(made, banks):
    sae = banks[0].sae
    r_ND = made.lm.residual(torch.tensor(made.corpus.token_ids_BT[:40]).long())[:, 1:].reshape(-1, sae.d_model)
    share_F = (banks[1].activations(r_ND) > 0).float().mean(0)
    assert torch.allclose(share_F, torch.tensor(0.04), atol=0.004)
    units = np.array([3, 1])
    for bank in banks:
        torch.testing.assert_close(bank.columns(r_ND, units), bank.activations(r_ND)[:, [3, 1]], atol=1e-5, rtol=1e-5)
    dead = direction_bank(sae, r_ND, np.zeros(sae.n_features), seed=0)
    assert not dead.activations(r_ND).any()


def test_the_planted_feature_is_found_by_geometry(made, banks):
    found = search(made.lm, banks, concept(), bos=True, seed=0)
    assert found.unit["geometry"][0] == 0
    assert set(found.unit) == set(METHODS)
    rows = {method: found.row(method, 24, seed=0) for method in found.unit}
    assert found.probe_auroc >= 0.75
    assert sum(row["is_choice"] for row in rows.values()) == 1
    for row in rows.values():
        assert row["low"] <= row["auroc"] <= row["high"] and row["n_held_out"] == 12
    few, control, dense = accuracies(found, 5, seed=0)
    assert dense > 0.7 and 0 <= control <= 1 and few >= 0.5


def test_what_the_residual_does_not_carry_is_not_testable(made, banks):
    same = concept("harbour", "harbour").model_copy(update={"name": "nothing"})
    rows = search(made.lm, banks, same, bos=True, seed=0)
    assert rows.probe_auroc == 0.5 and rows.row("geometry", 24, 0)["verdict"] == "not testable"


def test_methods_rank_a_planted_unit_first():
    random = np.random.default_rng(0)
    positive_I = np.repeat([True, False], 6)
    value_IF = np.maximum(random.normal(size=(12, 50)), 0).astype(np.float32)
    value_IF[:, 7] = np.where(positive_I, 3 + random.random(12), 0)
    value_IF[:, 8] = np.where(positive_I, 9, 0) * (np.arange(12) != 0)  # stronger, but not in every positive text
    value_IF[:, 9] = 5  # everywhere
    assert prompt_sets(value_IF, positive_I).argmax() == 7
    assert classifier(value_IF, positive_I, seed=0).argmax() in (7, 8)
    rows_FD = torch.eye(4)
    mean_ID = np.where(positive_I[:, None], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0])
    score = geometry(rows_FD, mean_ID, positive_I)
    assert score.argmax() == 1 and score[1] == pytest.approx(2 / np.sqrt(5))


def test_a_sparse_probe_finds_the_unit_and_the_dense_probe_is_its_ceiling():
    random = np.random.default_rng(0)
    r_ND = torch.from_numpy(random.normal(size=(800, 24)).astype(np.float32))
    positive_N = r_ND[:, 5].numpy() > 0.3
    weights = {
        "W_enc_FD": torch.eye(24), "b_enc_F": torch.zeros(24), "W_dec_FD": torch.eye(24), "b_dec_D": torch.zeros(24),
        "threshold_F": torch.full((24,), 0.1), "mean_D": torch.zeros(24),
    }  # fmt: skip
    config = {"architecture": "batch_topk", "n_features": 24, "d_model": 24, "scale": 1.0, "threshold_norm": 1e6}
    sae = SparseAutoencoder(weights, config)
    banks = feature_bank(sae), direction_bank(sae, r_ND, np.full(24, 0.4), seed=1)

    class Reader:
        def gather(self, index_N: torch.Tensor) -> torch.Tensor:
            return r_ND[index_N]

    data = DataSet("planted", np.arange(600), positive_N[:600], np.arange(600, 800), positive_N[600:])
    rows = {row.k: row for row in probe(data, banks, Reader(), seed=0)}  # pyright: ignore[reportArgumentType]
    assert rows[1].features > 0.95 > 0.85 > rows[1].directions and rows[1].dense > 0.9
    assert rows[32].n_test == 200


def test_profiles_tell_texts_and_units_apart():
    # Unit 0 fires on token 1, unit 1 on token 2; tokens 0-3 occur ten times each.
    sample = np.repeat(np.arange(4), 10)
    unit_P, token_P = np.repeat([0, 1], 10), np.repeat([1, 2], 10)
    profile = Profile.of(unit_P, token_P, sample, 3, 5)
    assert profile.count(np.array([0, 0, 1, 2]), np.array([1, 2, 2, 0])).tolist() == [10, 0, 10, 0]
    assert sort(profile, unit_P, token_P, 50, seed=0).tolist() == [1.0] * 50
    assert sort(profile, unit_P[:10], token_P[:10], 5, seed=0).size == 0
    wrong = Profile.of(unit_P, token_P[::-1], sample, 3, 5)
    assert sort(wrong, unit_P, token_P, 50, seed=0).tolist() == [0.0] * 50

    class Two:
        """Unit 0 is active where the first dimension is; unit 1 where the second is."""

        def activations(self, r_ND: torch.Tensor) -> torch.Tensor:
            return r_ND

    first, second = (Read(torch.tensor([row]), (token,)) for row, token in (([1.0, 0.0, 0.0], 1), ([0.0, 1.0, 0.0], 2)))
    both = Read(torch.tensor([[1.0, 1.0, 0.0]]), (3,))
    accuracy = contrastive(Two(), profile, [(first, second), (both, both)])  # pyright: ignore[reportArgumentType]
    assert accuracy[0] == 1.0 and np.isnan(accuracy[1])
    assert contrastive(Two(), wrong, [(first, second)])[0] == 0.0  # pyright: ignore[reportArgumentType]


def test_a_known_word_is_the_feature_of_largest_f1(made, banks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(thresholds(), "known_word_min_tokens", 4)
    lm = made.lm
    words = read_words(SHIPPED)
    assert words is not None
    single = [word for topic in TOPICS.values() for word in topic if len(lm.tokenize(f" {word}", bos=False)) == 1][:3]
    ids = [lm.tokenize(f" {word}", bos=False)[0] for word in single]
    corpus = made.corpus
    token_N = corpus.token_ids_BT.reshape(-1)
    at = [np.flatnonzero(token_N == token_id) for token_id in ids]

    class Reader:
        def token_index(self, split: str) -> torch.Tensor:
            return torch.arange(len(token_N))

    # Feature 0 fires exactly on the first word; feature 1 on every other occurrence of the second and on nothing else.
    active = [(0, int(i)) for i in at[0]] + [(1, int(i)) for i in at[1][::4]] + [(2, int(i)) for i in at[2]]
    pl.DataFrame(active, schema=["feature", "token_index"], orient="row").write_parquet(tmp_path / "activations_train.parquet")
    n_active = [len(at[0]), len(at[1][::4]), 20 * len(at[2])]  # feature 2 fires nearly everywhere else, too
    pl.DataFrame({"feature": [0, 1, 2], "n_active_train": n_active}).write_parquet(tmp_path / "features.parquet")
    wanted = Words(templates=words.templates, words=single)
    known = known_words(lm, wanted, corpus, Reader(), tmp_path)  # pyright: ignore[reportArgumentType]
    assert [(each.word, each.feature) for each in known] == [(single[0], 0)] and known[0].f1 == pytest.approx(1.0)
    two = [KnownWord(single[0], 0, 1.0, 30), KnownWord(single[1], 1, 0.9, 30)]
    negatives = read_texts(lm, banks[0], words.templates.negatives, True)
    searched = [searched_word(lm, banks[0], two, place, words.templates, negatives, bos=True) for place in range(2)]
    assert all(set(each.score_F) >= {"single_prompt", "prompt_sets", "geometry"} for each in searched)


def test_words_of_the_families_join_once_whatever_their_case():
    words = read_words(SHIPPED)
    assert words is not None and words.families
    assert {"France", "gold", "isinstance"} <= set(words.candidates) and "france" not in words.candidates
    assert len({word.lower() for word in words.candidates}) == len(words.candidates) > 900
    assert Words(templates=words.templates, words=["Sea", "sea"]).candidates == ["Sea"]


def test_hits_are_counted_against_the_other_words_features():
    score = np.zeros(30)
    score[:12] = np.arange(12, 0, -1)
    known = [KnownWord("a", 0, 1.0, 30, {"m": score}), KnownWord("b", 11, 1.0, 30, {"m": score})]
    rows = [row for each in known for row in word_rows(each, known, 64)]
    assert [row["found"] for row in rows] == [True, False] and [row["others_found"] for row in rows] == [0.0, 1.0]
    assert not KnownWord("c", 29, 1.0, 30, {"m": score}).hit("m", 29)  # a score of zero is no find


def test_shipped_concepts_are_whole():
    concepts = read_concepts(SHIPPED)
    assert len(concepts) == 12 and sum(each.safety for each in concepts) == 5
    for each in concepts:
        assert len(set(each.texts)) == len(each.texts), each.name
        assert each.positive_I.sum() == len(each.positives) + len(each.held_out.positives)
    assert len(concepts_sha(SHIPPED)) == 16


def test_broken_concept_files_are_named(made, banks, tmp_path: Path):
    with pytest.raises(UserError, match="holds no concept file"):
        read_concepts(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match="positives: Field required"):
        read_concepts(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: [mine\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_concepts(tmp_path)
    with pytest.raises(UserError, match="no token with features"):
        read_text(made.lm, banks[0], "", bos=True)


def test_texts_of_one_s_own_find_features_on_the_command_line(finished_study):
    opened = open_study(finished_study.file, finished_study.folder / "data")
    held = concept()
    for method in ("single_prompt", "prompt_sets", "geometry", "classifier"):
        negatives = [] if method == "single_prompt" else held.negatives
        positives = held.positives[:1] if method == "single_prompt" else held.positives
        found = find_features(opened, 64, positives, negatives, method, top=3)
        assert len(found) <= 3 and [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert find_features(opened, 64, held.positives[:2], method="attribution", label="a", other="b")
    positives = [argument for text in held.positives[:2] for argument in ("--positive", text)]
    code, out, _ = finished_study.command("search", *positives, "--negative", held.negatives[0], "--top", "2")
    assert code == 0 and "64/" in out
    for wrong, says in (
        (("--method", "guess"), "no method"), (("--method", "attribution"), "two next tokens"),
        (("--method", "geometry"), "--negative"),
        (("--method", "single_prompt"), "reads one text"),
    ):  # fmt: skip
        code, _, errors = finished_study.command("search", *positives, *wrong)
        assert code == 2 and says in errors


def test_attribution_on_the_command_line(finished_study):
    asked = ("--prompt", "the ship of the island", "--target", "a", "--baseline")
    code, out, _ = finished_study.command("attribute", *asked, "b", "--top", "3")
    assert code == 0 and "likeliest next token" in out and "active pairs" in out
    code, _, errors = finished_study.command("attribute", *asked, "not one token")
    assert code == 2 and "tokens" in errors and "Traceback" not in errors
    assert finished_study.command("attribute", *asked, "b", "--size", "7")[0] == 2
