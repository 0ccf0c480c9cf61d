"""Specificity by the offline proxy on a planted world: examples, levels, controls, the artefacts."""

import dataclasses
import inspect
import json

import numpy as np
import polars as pl
import pytest

from sae_pipeline.interpret.build_explanations import build_explanations
from sae_pipeline.interpret.build_specificity import build_specificity_scores
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.protocols import Score as UnitScore
from sae_pipeline.interpret.protocols import ScoredWindow
from sae_pipeline.interpret.proxy import NEAR, RUBRIC, ProxyScorer, calibrate
from sae_pipeline.interpret.rules import Rule, RuleIndex
from sae_pipeline.interpret.windows import REACH, active_examples, decoys, derangement, generator
from sae_pipeline.study import Explain, Score
from sae_pipeline.tables.schemas import check
from tests.science.interpret_world import (
    CONTEXT,
    PLANTED,
    Folders,
    explanation,
    make_tokens,
    make_units,
    planted_masks,
    token,
)

SCORE = Score(n_features=8, examples_per_interval=2, n_controls=4)


@pytest.fixture(scope="module")
def built(folders: Folders, embedder: SentenceEmbedder, tmp_path_factory: pytest.TempPathFactory):
    explained, scored = tmp_path_factory.mktemp("explanations"), tmp_path_factory.mktemp("scores")
    first = build_explanations(
        size=9, explain=Explain(), score=SCORE, corpus=folders.corpus, activations=folders.activations,
        feature_stats=folders.feature_stats, embedder=embedder, work=explained,
    )  # fmt: skip
    second = build_specificity_scores(
        size=9, score=SCORE, corpus=folders.corpus, activations=folders.activations, feature_stats=folders.feature_stats,
        explanations=explained, embedder=embedder, work=scored,
    )  # fmt: skip
    return explained, scored, first.metadata, second.metadata


def test_examples_lie_in_their_interval_and_train_and_held_out_are_disjoint_by_document(index: RuleIndex) -> None:
    units, tokens = make_units(index.tokens), index.tokens
    documents: dict[str, set[int]] = {"train": set(), "held_out": set()}
    for column in units.explained.tolist():
        maximum = units.train.max_U[column]
        for split in ("train", "held_out"):
            examples = active_examples(units, column, 3, generator(0, "test", units, column), split)
            documents[split] |= {int(tokens.doc_id_N[example.token_index]) for example in examples}
            for example in examples:
                assert example.interval is not None and example.activation is not None
                low, high = (example.interval - 1) * maximum / 10, example.interval * maximum / 10
                assert low < example.activation + 1e-6 and (example.activation <= high + 1e-6 or example.interval == 10)
            assert all(sum(e.interval == i for e in examples) <= 3 for i in range(1, 11))
        documents["held_out"] |= {
            int(tokens.doc_id_N[example.token_index])
            for example in decoys(tokens, units, column, 4, generator(0, "decoys", units, column))
        }
        # What the explainer sees: the train activations.
        documents["train"] |= set(tokens.doc_id_N[units.train.of(column)[0]].tolist())
    assert documents["train"] and documents["held_out"]
    assert not documents["train"] & documents["held_out"]


def test_decoys_are_held_out_inactive_and_of_the_right_token(index: RuleIndex) -> None:
    units, tokens = make_units(index.tokens), index.tokens
    column = PLANTED.index("bigram")
    active = set(units.held_out.of(column)[0].tolist())
    for quiet in (False, True):
        found = decoys(tokens, units, column, 5, generator(0, "decoys", units, column), quiet_window=quiet)
        assert {example.kind for example in found} == {"same_token_inactive", "random"}
        for example in found:
            assert tokens.test_N[example.token_index] and example.token_index not in active
            assert example.interval is None and example.activation is None
            if example.kind == "same_token_inactive":
                assert tokens.token_id_N[example.token_index] == token(" forces")
            if quiet:
                window = example.window(CONTEXT)
                assert not active & set(range(window.first, window.last + 1))


def test_windows_stay_in_their_block(index: RuleIndex) -> None:
    units = make_units(index.tokens)
    for example in active_examples(units, PLANTED.index("position"), 3, np.random.default_rng(0)):
        window = example.window(CONTEXT)
        assert window.first == max(window.token_index - REACH, window.token_index - window.token_index % CONTEXT)
        assert window.first // CONTEXT == window.last // CONTEXT


def test_no_unit_keeps_its_own_explanation_when_shuffled() -> None:
    for seed in range(20):
        other = derangement([3, 5, 8, 13], seed)
        assert sorted(other) == sorted(other.values()) == [3, 5, 8, 13]
        assert all(other[unit] != unit for unit in other)
    with pytest.raises(ValueError, match="at least two"):
        derangement([3], 0)


def test_levels_follow_the_distance_of_the_rule(embedder: SentenceEmbedder) -> None:
    tokens = make_tokens()
    i = 5 * CONTEXT + 16
    tokens.token_id_N[i] = token("isl")
    index = RuleIndex(tokens)
    one = calibrate(index, embedder, [(explanation(Rule("token", (1,))), [window(i)])])
    assert (one.cosine_near, one.cosine_window) == (1.0, 1.0)  # nothing to compare with: no cosine can decide
    scorer = ProxyScorer(index, embedder, one)
    rule = Rule("token", (token("isl"),))
    scores = scorer.score(explanation(rule), [window(i), window(i + NEAR), window(i + NEAR + 1), window(i - NEAR - 1)])
    assert [score.value for score in scores] == [3, 2, 1, 1]
    far = 8 * CONTEXT + 16
    assert scorer.score(explanation(rule), [window(far)])[0].value == 0
    # A rule that holds nearly everywhere is evidence of nothing but a vague relation.
    everywhere = Rule("position", ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31)))
    assert scorer.score(explanation(everywhere), [window(far)])[0].value == 1
    unexplained = dataclasses.replace(explanation(rule), status="too_few_examples", rule=None, text=None)
    assert scorer.score(unexplained, [window(i)]) == [UnitScore(None, "too_few_examples", None)]


def window(i: int) -> ScoredWindow:
    block = i - i % CONTEXT
    return ScoredWindow(i, max(i - REACH, block), min(i + REACH, block + CONTEXT - 1))


def test_a_scorer_cannot_see_activations_intervals_or_arms() -> None:
    assert {field.name for field in dataclasses.fields(ScoredWindow)} == {"token_index", "first", "last"}
    assert list(inspect.signature(ProxyScorer.score).parameters) == ["self", "explanation", "windows"]
    assert set(inspect.signature(ProxyScorer.__init__).parameters) == {"self", "index", "embedder", "calibration"}


def test_artefacts_conform_and_matched_beats_shuffled(built) -> None:
    explained, scored, first, second = built
    explanations = check("explanations", pl.read_parquet(explained / "explanations.parquet"))
    scores = check("explanation_scores", pl.read_parquet(explained / "explanation_scores.parquet"))
    specificity = check("specificity_scores", pl.read_parquet(scored / "specificity_scores.parquet"))
    counts = dict(explanations.group_by("unit").len().iter_rows())
    assert counts == {"sae_feature": 8, "random_direction": 4, "mlp_neuron": 4}
    assert first["n_features_explained"] == 7 and first["n_features_too_few_examples"] == 1
    means = scores.group_by("metric", "control").agg(pl.col("value").mean())
    mean = {(metric, control): value for metric, control, value in means.iter_rows()}
    assert mean["rule_f1", "none"] > mean["rule_f1", "shuffled"] + 0.3
    assert mean["rule_f1", "none"] > mean["rule_f1", "random_direction"] + 0.3
    assert mean["detection_auroc", "none"] > mean["detection_auroc", "shuffled"]
    assert ("embedding_auroc", "mlp_neuron") in mean
    assert set(specificity["control"].unique()) == {"none", "shuffled", "baseline", "random_direction", "mlp_neuron"}
    assert set(specificity["kind"].unique()) == {"active", "same_token_inactive", "random"}
    assert second["matched_minus_shuffled_low"] > 0
    assert second["n_features_scored"] == 7 and second["n_features_attempted"] == 8
    counts = {(row["control"], row["kind"]): (row["n_scored"], row["n_attempted"]) for row in second["windows_by_arm"]}
    own = specificity.filter((pl.col("control") == "none") & (pl.col("kind") == "active"))
    assert counts["none", "active"] == (own["score"].count(), own.height) and own["score"].null_count()
    rare = specificity.filter((pl.col("unit_id") == PLANTED.index("rare")) & (pl.col("unit") == "sae_feature"))
    assert set(rare["status"].unique()) == {"too_few_examples"} and rare["score"].null_count() == rare.height


def test_all_four_levels_occur_and_the_token_feature_is_clean(built) -> None:
    _, scored, _, metadata = built
    specificity = pl.read_parquet(scored / "specificity_scores.parquet")
    assert set(specificity["score"].drop_nulls().unique()) == {0, 1, 2, 3}
    own = specificity.filter((pl.col("unit") == "sae_feature") & (pl.col("control") == "none") & (pl.col("kind") == "active"))
    assert set(own.filter(pl.col("unit_id") == PLANTED.index("token"))["score"].unique()) == {3}
    assert sum(metadata["n_by_score"].values()) == specificity["score"].drop_nulls().len()


def test_scored_windows_are_held_out_and_hold_what_they_say(index: RuleIndex, built) -> None:
    _, scored, _, _ = built
    specificity = pl.read_parquet(scored / "specificity_scores.parquet")
    assert index.tokens.test_N[specificity["token_index"].to_numpy()].all()
    own = specificity.filter((pl.col("unit") == "sae_feature") & (pl.col("control") == "none"))
    masks = list(planted_masks(index.tokens).values())
    active = np.array([masks[unit][i] for unit, i in own.select("unit_id", "token_index").iter_rows()])
    assert (active == (own["kind"] == "active").to_numpy()).all()
    assert (own["interval"].is_not_null().to_numpy() == active).all()
    # Control arms on the features' windows share their example ids.
    baseline = specificity.filter(pl.col("control") == "baseline")
    pairs = baseline.join(own, on="example_id")
    assert pairs.height == baseline.height and (pairs["token_index"] == pairs["token_index_right"]).all()


def test_the_same_inputs_give_the_same_bytes(folders: Folders, built, tmp_path) -> None:
    explained, scored, _, _ = built
    again = SentenceEmbedder()
    build_explanations(
        size=9, explain=Explain(), score=SCORE, corpus=folders.corpus, activations=folders.activations,
        feature_stats=folders.feature_stats, embedder=again, work=tmp_path,
    )  # fmt: skip
    for name in ("explanations.parquet", "explanation_scores.parquet", "control_units.safetensors"):
        assert (tmp_path / name).read_bytes() == (explained / name).read_bytes()
    build_specificity_scores(
        size=9, score=SCORE, corpus=folders.corpus, activations=folders.activations, feature_stats=folders.feature_stats,
        explanations=explained, embedder=again, work=tmp_path,
    )  # fmt: skip
    for name in ("specificity_scores.parquet", "calibration.json"):
        assert (tmp_path / name).read_bytes() == (scored / name).read_bytes()


def test_the_study_can_name_its_features(folders: Folders, embedder: SentenceEmbedder, tmp_path) -> None:
    token_feature, dead = PLANTED.index("token"), PLANTED.index("dead")
    explained, scored = tmp_path / "a", tmp_path / "b"
    explained.mkdir()
    scored.mkdir()
    score = SCORE.model_copy(update={"features": [token_feature, PLANTED.index("near"), dead]})
    build_explanations(
        size=9, explain=Explain(features=[token_feature]), score=score, corpus=folders.corpus, activations=folders.activations,
        feature_stats=folders.feature_stats, embedder=embedder, work=explained,
    )  # fmt: skip
    outcome = build_specificity_scores(
        size=9, score=score, corpus=folders.corpus, activations=folders.activations, feature_stats=folders.feature_stats,
        explanations=explained, embedder=embedder, work=scored,
    )  # fmt: skip
    explanations = pl.read_parquet(explained / "explanations.parquet").filter(pl.col("unit") == "sae_feature")
    assert explanations["unit_id"].to_list() == [token_feature]
    rows = pl.read_parquet(scored / "specificity_scores.parquet").filter(pl.col("control") == "none")
    status = dict(rows.group_by("unit_id").agg(pl.col("status").first()).iter_rows())
    assert status == {token_feature: "ok", PLANTED.index("near"): "not_run"}
    assert outcome.metadata["n_features_attempted"] == 2


def test_calibration_holds_shuffled_explanations_to_alpha(index: RuleIndex, embedder: SentenceEmbedder, built) -> None:
    _, scored, _, _ = built
    calibration = json.loads((scored / "calibration.json").read_text(encoding="utf-8"))
    assert calibration["rubric"] == "rubric_v1" and calibration["n_shuffled_pairs"] > 0
    assert -1 < calibration["cosine_near"] < 1 and -1 < calibration["cosine_window"] < 1
    sea, law = explanation(Rule("token", (1,)), "Fires on 'island'."), explanation(Rule("token", (1,)), "Fires on 'judge'.")
    windows = [window(i) for i in range(16, 160 * CONTEXT, CONTEXT)]
    made = calibrate(index, embedder, [(sea, windows[1::2]), (law, windows[0::2])])
    parts = [("", index.tokens.text(w.first, w.last), "") for w in windows]
    vectors = embedder.windows(parts)[0]
    other = embedder.texts(["Fires on 'judge'.", "Fires on 'island'."])
    shuffled = np.concatenate([vectors[1::2] @ other[0], vectors[0::2] @ other[1]])
    assert (shuffled > made.cosine_window).mean() == pytest.approx(made.alpha, abs=0.02)
    assert made.matched_rate_window > made.alpha


def test_the_rubric_is_the_papers(built) -> None:
    text = RUBRIC.read_text(encoding="utf-8")
    assert "> 3 – The feature cleanly identifies the activating text." in text and "Templeton" in text
