"""Attribution on a model whose last blocks do nothing but add: there it equals ablation exactly; and on a real tiny one."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.attribution.ablation import ablation_effects, finite_differences
from sae_pipeline.attribution.attribute import attribute
from sae_pipeline.attribution.contrast import contrast
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import FolderModel, Hook
from sae_pipeline.study_survey_search import Attribution
from sae_pipeline.survey.attribution.build import build_attribution, spread
from sae_pipeline.survey.attribution.lists import middles, share_about
from sae_pipeline.survey.attribution.measure import on_likeliest
from sae_pipeline.survey.attribution.pairs import measured_pairs
from sae_pipeline.survey.attribution.prompts import Prompt, prompts_sha, read_prompts, read_requests
from sae_pipeline.survey.attribution.statistics import (
    compared,
    compared_largest,
    correlations_by_prompt,
    pooled_correlations,
    relative_errors,
    top_overlap,
)
from sae_pipeline.survey.attribution.topics import Topics
from sae_pipeline.survey.thresholds import thresholds
from sae_pipeline.tables.files import check_file
from tests.tiny_steering import N_FEATURES, make_artefacts

TEXT = "the ship of the harbour and the island of the storm"
SETTINGS = Attribution(max_prompts=3, n_ablations=6, n_strongest=2, n_finite_differences=3)


@pytest.fixture(scope="module")
def made(tiny_model_folder, tmp_path_factory):
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    return make_artefacts(lm, tmp_path_factory.mktemp("attribution") / "tiny")


@pytest.fixture(scope="module")
def sae(made) -> SparseAutoencoder:
    return SparseAutoencoder.load(made.sae)


@pytest.fixture(scope="module")
def linear(tiny_model_folder, made):
    """The tiny model, its last block silenced and its head fed without the norm: logits are linear in the hook's activation."""
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    for name, parameter in lm.anatomy.blocks[-1].named_parameters():
        if "o_proj" in name or "down_proj" in name:
            parameter.data.zero_()
    lm.anatomy.final_norm.forward = lambda hidden: hidden
    return lm


def test_in_a_linear_model_attribution_is_the_effect_and_the_head_s_own_product(linear, sae):
    found = attribute(linear, sae, contrast(linear, TEXT, "a", "b", bos=True))
    assert len(found.position_P) > 3
    everything = torch.arange(len(found.position_P))
    effect = ablation_effects(linear, sae, found, everything)
    torch.testing.assert_close(effect, found.attribution_P, atol=1e-4, rtol=1e-4)
    head_VD = linear.anatomy.head.weight.float()
    slope_D = head_VD[found.contrast.target] - head_VD[found.contrast.baseline]
    last = len(found.contrast.token_ids) - 1
    by_hand = found.activation_P * (sae.W_dec_FD[found.feature_P] @ slope_D) / sae.scale * (found.position_P == last)
    torch.testing.assert_close(found.attribution_P, by_hand, atol=1e-4, rtol=1e-4)
    assert by_hand.abs().max() > 0 or (found.position_P != last).all()


def test_attribution_is_the_derivative_and_masked_positions_have_no_features(made, sae):
    found = attribute(made.lm, sae, contrast(made.lm, TEXT, "a", "b", bos=True))
    everything = torch.arange(len(found.position_P))
    difference = finite_differences(made.lm, sae, found, everything, 0.02)
    assert float((difference - found.attribution_P).norm() / difference.norm()) < 0.01
    assert 0 not in found.position_P and bool(found.masked_T[0])
    logits = made.lm.model(input_ids=torch.tensor([found.contrast.token_ids])).logits[0, -1]
    assert found.logit_difference == pytest.approx(
        float(logits[found.contrast.target] - logits[found.contrast.baseline]), abs=1e-4
    )
    assert found.target_rank == 1 + int((logits > logits[found.contrast.target]).sum())


def test_an_ablation_is_a_forward_pass_without_that_feature_s_part(made, sae):
    found = attribute(made.lm, sae, contrast(made.lm, TEXT, "a", "b", bos=True))
    pair = len(found.position_P) // 2
    position, feature = int(found.position_P[pair]), int(found.feature_P[pair])

    def without(r_BTD, ids, offset):
        out = r_BTD.clone()
        f = sae.encode(r_BTD[0])[position, feature]
        out[0, position] -= f * sae.W_dec_FD[feature] / sae.scale
        return out

    ids = torch.tensor([found.contrast.token_ids])
    with made.lm.edited(without):
        logits = made.lm.model(input_ids=ids).logits[0, -1]
    expected = found.logit_difference - float(logits[found.contrast.target] - logits[found.contrast.baseline])
    assert float(ablation_effects(made.lm, sae, found, torch.tensor([pair]))[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("prompt", "target", "baseline", "says"),
    [
        (" ", "a", "b", "is empty"),
        (TEXT, "zebra crossing", "b", "tokens"),
        (TEXT, "", "b", "nothing"),
        (TEXT, "a", "a", "target itself"),
        ("x " * 400, "a", "b", "the model reads"),
    ],
)
def test_mistakes_are_named(made, prompt, target, baseline, says):
    with pytest.raises(UserError, match=says):
        contrast(made.lm, prompt, target, baseline, bos=True)


def planted(effect_of, n: int = 40) -> pl.DataFrame:
    """Three prompts; attribution is the effect plus a little noise, activation is noise."""
    random = np.random.default_rng(0)
    frames = []
    for prompt in range(3):
        effect = effect_of(random, n)
        frames.append(pl.DataFrame({
            "prompt_id": np.full(n, prompt, np.int32), "position": np.arange(n) % 5 + 1, "feature": np.arange(n),
            "attribution": effect + 0.01 * random.normal(size=n), "activation": np.abs(random.normal(size=n)) + 0.1,
            "ablation": effect, "finite_difference": 1.1 * effect, "token": ["x"] * n, "is_drawn": [True] * n,
        }))  # fmt: skip
    return pl.concat(frames)


def test_planted_pairs_give_the_planted_numbers():
    pairs = planted(lambda random, n: random.normal(size=n))
    found = pooled_correlations(pairs, "attribution", "activation", "ablation", seed=0)
    x, y, z = (pairs[name].to_numpy() for name in ("attribution", "ablation", "activation"))
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1]) and found.control == pytest.approx(np.corrcoef(z, y)[0, 1])
    assert found.value > 0.99 and found.difference_low is not None and found.difference_low > 0.3
    first = pairs.filter(pl.col("prompt_id") == 1)
    expected = np.corrcoef(first["activation"], first["ablation"])[0, 1]
    assert correlations_by_prompt(pairs, "activation", "ablation")[1] == pytest.approx(expected)
    assert relative_errors(pairs, "ablation", "finite_difference") == pytest.approx([1 / 11] * 3)
    overlap = top_overlap(pairs, "attribution", "ablation")
    assert overlap.min() >= 0.9 > top_overlap(pairs, "activation", "ablation").max()
    worst = compared_largest(np.array([0.001, 0.015, 0.002]), np.array([1.4, 1.6, 1.5]), seed=0)
    assert (worst.value, worst.high, worst.control) == (0.015, 0.015, 1.6) and worst.difference_high is not None
    assert worst.difference_high < 0
    same = compared(overlap, overlap, seed=0)
    assert same.difference_low == same.difference_high == 0 and same.n == 3


def test_the_headlines_are_told_once_more_of_the_prompts_whose_target_is_the_likeliest_token():
    pairs = planted(lambda random, n: random.normal(size=n))
    last = pl.col("prompt_id") == 2  # of which attribution says nothing, but which is not right in the strict sense
    pairs = pairs.with_columns(attribution=pl.when(last).then("activation").otherwise("ablation"))
    r = np.median(correlations_by_prompt(pairs, "activation", "ablation")[:2])
    overlap = top_overlap(pairs, "activation", "ablation")[:2].mean()
    told = on_likeliest(pairs, 3, [0, 1, 17])  # 17 was not measured
    assert told.startswith("of 3 prompts") and "it is the first in 2: " in told
    assert f"median correlation of 1.000 (activation {r:.3f})" in told and f"of 1.00 ({overlap:.2f})" in told
    assert on_likeliest(pairs, 3, []).endswith("the first in 0")


def test_lists_of_strongest_features_are_read_against_their_own_positions():
    pairs = planted(lambda random, n: np.arange(n)[::-1] / n).filter(pl.col("prompt_id") == 0)
    # The five largest attributions are features 0-4 on positions 1-5; each position has 8 features.
    share, expected = share_about(pairs, frozenset({0, 1, 2, 5}))
    assert share == pytest.approx(0.6) and expected == pytest.approx((2 / 8 + 1 / 8 + 1 / 8) / 5)


def test_middles_are_compared_with_those_of_the_other_facts(tmp_path: Path):
    rows = [
        {"feature": feature, "kind": "top", "tokens": ["the", " old", f" {word}", " ship"], "center": center}
        for feature, word, center in ((0, "France", 2), (1, "Japan", 3), (2, "Japan", 0))
        for _ in range(4)
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "examples.parquet")
    topics = Topics(tmp_path / "examples.parquet")
    assert topics.about(["japan"]) == {1} and topics.about(["france", "japan"]) == {0, 1} and topics.about(["jap"]) == frozenset()
    assert topics.fires_on(["japan"], []) == frozenset() and topics.fires_on(["france"], []) == {0}  # 1 fires on what follows
    rows = [{**row, "center": 2} for row in rows]
    pl.DataFrame(rows).write_parquet(tmp_path / "examples.parquet")
    topics = Topics(tmp_path / "examples.parquet")
    prompts = [Prompt(0, "two_hop", "", "", "", ("france",)), Prompt(1, "two_hop", "", "", "", ("japan",))]
    pairs = pl.DataFrame({"prompt_id": [0, 1, 1], "feature": [0, 0, 1], "ablation": [1.0, 2.0, None]})
    found, rivals = middles(pairs, prompts, topics)
    assert found.tolist() == [1.0, 0.0] and rivals.tolist() == [0.0, 1.0]
    # The same country stands in another fact with other words: each keeps its own, and neither is the other's rival.
    also = [*prompts, Prompt(2, "two_hop", "", "", "", ("japan", "france"))]
    more = pl.concat([pairs, pl.DataFrame({"prompt_id": [2], "feature": [0], "ablation": [1.0]})])
    found, rivals = middles(more, also, topics)
    assert found.tolist() == [1.0, 0.0, 1.0] and rivals.tolist() == [0.5, 1.0, 1.0]


def test_a_feature_of_the_prompt_s_own_word_is_no_middle(tmp_path: Path):
    def examples(feature: int, *texts: list[str]) -> list[dict]:
        return [{"feature": feature, "kind": "top", "tokens": text, "center": len(text) - 1} for text in texts]

    rome, italy = ["Italy", ":", " Rome"], [" in", " It", "aly"]
    rows = [
        *examples(0, *[rome] * 5),  # Rome, with Italy beside it
        *examples(1, *[rome] * 3, *[italy] * 2),  # both, Rome more often
        *examples(2, *[rome] * 2, *[italy] * 3),  # both, Italy more often
        *examples(3, italy, *[[" the", " sea"]] * 9),  # Italy hardly ever
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "examples.parquet")
    topics = Topics(tmp_path / "examples.parquet")
    assert topics.about(["italy"]) == {0, 1, 2} and topics.fires_on(["italy"], ["capital", "rome"]) == {2}
    assert topics.fires_on(["italy"], []) == {1, 2}
    asked = [
        Prompt(0, "two_hop", "spoken where the capital is Rome", "", "", ("italy",)),
        Prompt(1, "two_hop", "where the Colosseum stands", "", "", ("italy", "italian")),
        Prompt(2, "two_hop", "whose capital is Rome, too", "", "", ("spain",)),
    ]
    for feature, expected in ((0, [0, 0, 0]), (1, [0, 1, 0]), (2, [1, 1, 0])):
        pairs = pl.DataFrame({"prompt_id": [0, 1, 2], "feature": [feature] * 3, "ablation": [1.0] * 3})
        found, rivals = middles(pairs, asked, topics)
        # Italy is the rival of Spain by the same rule: not by a feature that reads Rome.
        assert found.tolist() == expected and rivals.tolist() == [0, 0, float(feature == 2)]


def test_pairs_are_drawn_evenly_and_the_strongest_are_always_switched_off(made, sae):
    found = attribute(made.lm, sae, contrast(made.lm, TEXT, "a", "b", bos=True))
    rows = measured_pairs(made.lm, sae, found, 7, SETTINGS)
    assert rows["is_drawn"].sum() == 6 and rows["finite_difference"].is_not_null().sum() == 3
    strongest = rows.sort(pl.col("attribution").abs(), descending=True).head(2)
    assert strongest["ablation"].null_count() == 0
    assert rows.filter("is_drawn")["ablation"].null_count() == 0 and rows["ablation"].is_not_null().sum() <= 8
    assert rows.equals(measured_pairs(made.lm, sae, found, 7, SETTINGS))


def test_prompts_are_taken_in_turn_from_every_family():
    prompts = [Prompt(i, group, "", "", "") for i, group in enumerate("aaaab")]
    assert [prompt.prompt_id for prompt in spread(prompts, 3)] == [0, 1, 4]


def test_the_committed_files_are_whole():
    prompts = read_prompts()
    assert len(prompts) >= 80 and [prompt.prompt_id for prompt in prompts] == list(range(len(prompts)))
    assert all(prompt.middle for prompt in prompts if prompt.group == "two_hop")
    assert not any(word in prompt.text.lower() for prompt in prompts for word in prompt.middle)
    assert len({prompt.text for prompt in prompts}) == len(prompts) and all(read_requests()) and len(prompts_sha()) == 16


def test_the_stage_writes_its_tables_and_goes_on_after_a_kill(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sae_pipeline.survey.attribution import build

    prompts = [
        Prompt(i, group, f"{TEXT} {i}", target, baseline, middle)
        for i, (group, target, baseline, middle) in enumerate([
            ("emotion", "a", "b", ()), ("emotion", "b", "a", ()),
            ("two_hop", "c", "d", ("ship",)), ("two_hop", "d", "c", ("storm",)),
        ])
    ]  # fmt: skip
    monkeypatch.setattr(build, "read_prompts", lambda: prompts)
    monkeypatch.setattr(thresholds(), "among_likeliest", made.lm.vocab_size)
    words = pl.DataFrame({"feature": [0, 1], "kind": "top", "tokens": [[" ship"], [" sad"]], "center": [0, 0]})
    words.write_parquet(tmp_path / "examples.parquet")
    measured, calls = build.measured_pairs, []

    def killed(*args, **kwargs):
        calls.append(args[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*args, **kwargs)

    monkeypatch.setattr(build, "measured_pairs", killed)
    with pytest.raises(KeyboardInterrupt):
        build_attribution(made.lm, made.sae, tmp_path / "examples.parquet", SETTINGS, True, _folder(tmp_path / "work"))
    outcome = build_attribution(made.lm, made.sae, tmp_path / "examples.parquet", SETTINGS, True, tmp_path / "work")
    assert len(calls) == len(set(calls)) + 1 and outcome.metadata["n_solved"] == 2  # one of each pair of opposites
    assert check_file("attribution_prompts", tmp_path / "work" / "attribution_prompts.parquet") == 4
    assert check_file("attribution_features", tmp_path / "work" / "attribution_features.parquet") >= 10
    rows = pl.read_parquet(tmp_path / "work" / "measurements.parquet")
    status = dict(rows.select("measurement", "status").iter_rows())
    assert status["attribution_finite_difference_error"] == "ok" and status["two_hop_middle_in_top_10"] == "not_testable"
    # Of two opposites about an emotion the model prefers one, and both readings are taken.
    n_read = dict(rows.select("measurement", "n_scored").iter_rows())
    assert n_read["emotion_among_top_features"] == n_read["emotion_among_top_features_of_preferred"] == 1
    assert set(rows["size"]) == {N_FEATURES} and not (tmp_path / "work" / "parts").exists()


def test_a_tokenizer_without_these_words_is_said_to_be_not_measured(made, tmp_path: Path):
    words = pl.DataFrame({"feature": [0], "kind": ["top"], "tokens": [[" ship"]], "center": [0]})
    words.write_parquet(tmp_path / "examples.parquet")
    outcome = build_attribution(made.lm, made.sae, tmp_path / "examples.parquet", SETTINGS, True, _folder(tmp_path / "work"))
    assert outcome.metadata["n_measured"] < outcome.metadata["n_prompts"] == len(read_prompts())
    stored = pl.read_parquet(tmp_path / "work" / "attribution_prompts.parquet")
    assert stored.filter(pl.col("target") == " Paris")["target_rank"].null_count() > 0
    rows = pl.read_parquet(tmp_path / "work" / "measurements.parquet")
    assert {"attribution_ablation_correlation", "refusal_attribution"} <= set(rows["measurement"])


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
