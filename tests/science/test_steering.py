"""Concept terms, plans and scores of the steering evals, each against a computation by hand."""

from math import log

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.steering import scores
from sae_pipeline.steering.concepts import Concept, CorpusWords, log_odds_z
from sae_pipeline.steering.fluency import cross_entropies, distinct, is_fluent, repetition
from sae_pipeline.steering.generation import Arm
from sae_pipeline.steering.plan import pool_requests, spread
from sae_pipeline.steering.prompts import excluded_words, load_prompts, stem, words_of
from sae_pipeline.steering.scores import Texts
from sae_pipeline.study import FolderModel, Hook

VOCABULARY = ["<s>", " the", " is", "land", " boat", "s", ".", " sea", " rock", "1"]


@pytest.fixture(scope="module")
def lm(tiny_model_folder):
    return load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")


def corpus_words(blocks: list[list[int]], docs: list[list[int]], held_out: list[bool]) -> CorpusWords:
    decode = lambda ids: "".join(VOCABULARY[i] for i in ids)  # noqa: E731
    return CorpusWords.build(np.array(blocks, np.int32), np.array(docs, np.int32), np.array(held_out), VOCABULARY, decode)


def test_tokens_are_joined_to_words_that_end_with_the_document():
    words = corpus_words([[0, 2, 3, 4, 5, 6, 1, 2, 3, 9]], [[-1, 0, 0, 0, 0, 0, 0, 0, 1, 1]], [False])
    spelled = [words.words[i] if i >= 0 else None for i in words.word_N]
    #       <s>    " is" + "land"        " boat" + "s"     "."   " the" " is"  | "land"  "1"
    assert spelled == [None, "island", "island", "boat", "boat", None, "the", None, "land", None]
    assert words.background_W.tolist() == [1.0] * len(words.words)


def test_concept_terms_come_from_the_windows_of_the_activations():
    # "island" stands after the active token 8 (" rock") in every document; "boat", "sea" are everywhere.
    block = [0, 4, 7, 4, 7, 8, 2, 3, 4, 7, 4, 7, 4, 7, 4, 7, 4, 7, 4, 7]
    plain = [0, 4, 7, 4, 7, 4, 7, 4, 7, 4, 7, 4, 7, 4, 7, 4, 7, 4, 7, 4]
    blocks, docs = [block] * 6 + [plain] * 30, [[-1] + [i] * 19 for i in range(36)]
    words = corpus_words(blocks, docs, [False] * 36)
    active = np.array([20 * b + 5 for b in range(6)])
    concept = words.concept(active, np.full(6, 2.0, np.float32), n_terms=2)
    assert set(concept.terms) == {"island", "rock"}
    assert (concept.coverage, concept.own) == (1.0, 1.0)
    before = words.concept(active - 1, np.ones(6, np.float32), n_terms=2)  # fires on "sea", just before
    assert set(before.terms) == {"island", "rock"} and (before.coverage, before.own) == (1.0, 0.0)
    assert concept.in_text("Two ISLANDS.")
    assert not concept.in_text("An islander at sea.")
    few = words.concept(active[:2], np.ones(2, np.float32), n_terms=2)  # two documents are no evidence
    assert few.terms == ()
    assert words.concept(active[:0], np.zeros(0, np.float32), 2) == Concept(())


def test_held_out_text_is_no_background_and_stop_words_and_prompt_words_are_no_terms():
    words = corpus_words([[0, 4, 4, 4], [0, 7, 7, 7]], [[-1, 0, 0, 0], [-1, 1, 1, 1]], [False, True])
    assert dict(zip(words.words, words.background_W.tolist(), strict=True)) == {"boat": 3.0, "sea": 0.0}
    assert {"the", "story", "form", "physical", "mention"} <= excluded_words()
    assert "island" not in excluded_words()
    assert stem("Boats") == "boat" and stem("glass") == "glass" and stem("les") == "les"
    assert words_of("Don't stop, 3 Boats! ост") == ["don", "stop", "boat", "ост"]


def test_log_odds_z_ranks_words_by_over_representation():
    z_W = log_odds_z(np.array([30.0, 1.0, 10.0]), np.array([100.0, 100.0, 100.0]))
    assert z_W[0] > 2 > 0 > z_W[2] > z_W[1]
    same_W = log_odds_z(np.array([10.0, 20.0]), np.array([100.0, 200.0]))
    np.testing.assert_allclose(same_W, 0, atol=0.01)


def test_prompts_are_split_evenly_and_too_many_are_refused():
    prompts = load_prompts(16)
    assert [prompt.half for prompt in prompts].count("choose") == 8
    with pytest.raises(UserError, match=r"steer\.n_prompts: 99 prompts wanted"):
        load_prompts(99)


def test_spread_and_pool_requests_cover_prompts_evenly_without_duplicates():
    prompts = [prompt for prompt in load_prompts(16) if prompt.half == "choose"]
    few = spread(Arm("none", "clamp", 7, 7, 7, 1.0), prompts, 6, per_prompt=2, first=7)
    assert [(request.prompt.prompt_id, request.sample) for request in few] == [(0, 0), (0, 1), (2, 0), (2, 1), (14, 0), (14, 1)]
    arms = [Arm("random_feature", "clamp", unit, unit, None, 1.0) for unit in range(3)]
    pool = pool_requests(arms, prompts, 40)
    names = {(request.arm.unit_id, request.prompt.prompt_id, request.sample) for request in pool}
    assert len(names) == 40
    assert np.bincount([request.prompt.prompt_id // 2 for request in pool]).tolist() == [5] * 8
    assert np.ptp(np.bincount([request.arm.unit_id or 0 for request in pool])) <= 1
    # A unit's random numbers do not depend on the dose, but on everything else.
    strong = spread(Arm("none", "add", 7, 7, 7, 4.0), prompts, 6, per_prompt=2, first=7)
    assert [request.seed(0) for request in few] == [request.seed(0) for request in strong]
    assert len({request.seed(0) for request in [*few, *pool]}) == 46
    assert few[0].seed(0) != few[0].seed(1)


def texts(hits: list[int], fluent: list[int] | None = None) -> Texts:
    n = len(hits)
    columns = {"completion": ["an island" if hit else "a boat" for hit in hits], "fluent": [bool(f) for f in fluent or [1] * n]}
    rows = pl.DataFrame({**columns, "prompt_id": range(n), "cross_entropy": [2.0] * n, "repetition": [0.0] * n})
    return Texts.of(rows, Concept(("island",), 1.0))


def test_rates_odds_and_quality():
    read = texts([1, 1, 0, 0], [1, 0, 1, 1])
    metrics = read.metrics(seed=0)
    assert metrics["concept_rate"].value == pytest.approx(2.5 / 5)
    assert metrics["fluent_concept_rate"].value == pytest.approx(1.5 / 5)
    assert metrics["log_odds"].value == pytest.approx(0.0)
    assert texts([1, 1, 1, 0]).metrics(0)["log_odds"].value == pytest.approx(log(3.5 / 1.5))
    assert metrics["fluency"].value == pytest.approx(0.75)
    rate, fluency = 0.5, 3.5 / 5
    assert read.quality == pytest.approx(2 * rate * fluency / (rate + fluency))
    assert metrics["fluency"].n == 4


def test_factor_choice_prefers_quality_and_then_small_doses():
    by_factor = {0.5: texts([0, 0, 0, 0]), 1.0: texts([1, 1, 1, 0]), 2.0: texts([1, 1, 1, 1], [0, 0, 0, 0])}
    assert scores.choose_factor(by_factor) == 1.0
    assert scores.choose_factor({2.0: texts([0, 0]), 0.5: texts([0, 0]), 1.0: texts([0, 0])}) == 0.5
    assert scores.sweet_spot(by_factor) == (1.0, 1.0)
    assert scores.sweet_spot({-1.0: texts([1])}) is None


def test_bootstrap_intervals():
    value_N = np.arange(200) % 10 < 3
    low, high = scores.bootstrap_interval(value_N, np.arange(200), seed=0)
    assert low is not None and high is not None
    # Every text its own prompt: two levels of resampling reduce to one, and the normal approximation holds.
    error = 1.96 * (0.3 * 0.7 / 200) ** 0.5
    assert (low, high) == pytest.approx((0.3 - error, 0.3 + error), abs=0.012)
    # All texts of a prompt agree: only prompts carry information, and the interval is that of 10 of them.
    clustered = scores.bootstrap_interval(np.repeat(np.arange(10) < 3, 20), np.repeat(np.arange(10), 20), seed=0)
    assert clustered == pytest.approx((0.0, 0.6), abs=0.1)
    assert scores.bootstrap_interval(value_N, np.arange(200), seed=0) == (low, high)
    assert scores.bootstrap_interval(value_N[:0], value_N[:0], 0) == (None, None)


def test_pass_mark():
    strong, weak = texts([1] * 30 + [0] * 10), texts([1] * 2 + [0] * 38)
    low, _ = scores.bootstrap_difference(strong, weak, seed=0)
    assert scores.passes(strong, weak, low)
    assert not scores.passes(texts([1] * 30 + [0] * 9), weak, low)  # 39 texts
    assert not scores.passes(strong, texts([1] * 12 + [0] * 28), low)  # not 3 x
    assert not scores.passes(texts([1] * 4 + [0] * 36), texts([0] * 40), 0.01)  # 3 x, but not 10 points
    assert not scores.passes(strong, weak, 0.0)


def test_repetition_distinct_and_fluency():
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 - 4 / 5)
    assert repetition([1, 2, 3]) == 0.0
    assert distinct("one boat one boat one") == pytest.approx(2 / 4)
    assert distinct("boat") == 1.0
    assert is_fluent(2.9, 0.1, 2.0, 0.05) and not is_fluent(3.1, 0.1, 2.0, 0.05)
    assert not is_fluent(2.0, 0.2, 2.0, 0.05) and not is_fluent(None, 0.0, 2.0, 0.0)


def test_cross_entropy_equals_one_text_at_a_time(lm):
    prompts = [lm.chat("Hello there"), lm.chat("Bread"), lm.chat("Hello there"), lm.chat("Bread")]
    completions = [[5, 9, 30], [40], [7, 8, 9, 10, 11], []]
    found = cross_entropies(lm, prompts, completions, batch_rows=2)
    for nats, prompt, completion in zip(found, prompts, completions, strict=True):
        if not completion:
            assert nats is None
            continue
        logits = lm.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
        expected = -logits.log_softmax(-1)[range(len(completion)), completion].mean()
        assert nats == pytest.approx(float(expected), abs=1e-4)
