from pathlib import Path

import numpy as np
import pytest

from sae_pipeline.interpret.explanation_scores import auroc, rule_scores
from sae_pipeline.interpret.protocols import Explanation
from sae_pipeline.interpret.rules import Rule, RuleIndex
from sae_pipeline.interpret.sentences import Facts, list_of, quote, sentence
from sae_pipeline.interpret.token_stats import TokenStats, promoted_tokens
from sae_pipeline.interpret.units import Units, load_units, mlp_neurons, random_directions, save_units
from tests.science.interpret_world import PLANTED, make_tokens, make_units, planted_masks, token


@pytest.fixture(scope="module")
def index() -> RuleIndex:
    return RuleIndex(make_tokens())


@pytest.fixture(scope="module")
def units(index: RuleIndex) -> Units:
    return make_units(index.tokens)


@pytest.fixture(scope="module")
def explanations(index: RuleIndex, units: Units) -> dict[str, Explanation]:
    explainer = TokenStats(index, units, {PLANTED.index("token"): (" coast", " sea", " shore", " beach")})
    made = explainer.explain(units.ids[units.explained].tolist())
    return {PLANTED[explanation.unit_id]: explanation for explanation in made}


def test_sentences_say_what_was_planted(explanations: dict[str, Explanation]) -> None:
    text = {name: explanation.text or "" for name, explanation in explanations.items()}
    assert text["token"].startswith("Fires on 'island' (100 % of its activation)")
    assert text["token"].endswith("; promotes 'coast', 'sea', 'shore'.")
    assert text["bigram"].startswith("Fires on 'forces' after 'armed'")
    assert text["near"].startswith("Fires in passages about 'verdict'")
    assert text["class_in"].startswith("Fires on numbers in sea text")
    assert text["position"].startswith("Fires at token 1 or 2 to 3 of a block") or "1 and 2 to 3" in text["position"]
    assert text["previous"].startswith("Fires on whatever follows 'the'")
    assert "No clear pattern" in text["noise"]
    kinds = {name: explanation.kind for name, explanation in explanations.items()}
    assert kinds == {
        "token": "token", "bigram": "phrase", "near": "topic", "class_in": "syntax", "rare": None, "position": "position",
        "noise": "other", "previous": "phrase",
    }  # fmt: skip


def test_rare_features_get_a_status_and_dead_ones_no_row(explanations: dict[str, Explanation]) -> None:
    rare = explanations["rare"]
    assert (rare.status, rare.text, rare.rule, rare.n_examples) == ("too_few_examples", None, None, 1)
    assert "dead" not in explanations


def test_scorers_do_not_read_the_logit_clause(explanations: dict[str, Explanation]) -> None:
    assert "coast" not in explanations["token"].about_inputs
    assert "island" in explanations["token"].about_inputs


def test_rule_scores_equal_a_direct_count(index: RuleIndex, units: Units, explanations: dict[str, Explanation]) -> None:
    rows = list(rule_scores(index, units, list(explanations.values()), seed=0))
    status = {(PLANTED[row.column], row.metric, row.control): row.status for row in rows}
    value = {(PLANTED[row.column], row.metric, row.control): row.value for row in rows if row.value is not None}
    masks, test = planted_masks(index.tokens), index.tokens.test_N
    for name in ("token", "near", "noise"):
        rule = Rule.from_json(explanations[name].rule or "")
        holds, truth = index.holds_N(rule) & test, masks[name] & test
        hits = (holds & truth).sum()
        assert value[name, "rule_precision", "none"] == pytest.approx(hits / max(holds.sum(), 1))
        assert value[name, "rule_recall", "none"] == pytest.approx(hits / truth.sum())
        assert value[name, "rule_f1", "none"] == pytest.approx(2 * hits / (holds.sum() + truth.sum()))
    for name in ("token", "bigram", "class_in", "position", "previous"):
        assert value[name, "rule_f1", "none"] > 0.9
        assert value[name, "rule_f1", "shuffled"] < 0.5
    assert status["rare", "rule_f1", "none"] == "too_few_examples" and ("rare", "rule_f1", "none") not in value
    # One token says all of `token`, and half of what `bigram` needs: `forces` also stands elsewhere.
    assert value["token", "rule_f1", "baseline"] == pytest.approx(1.0)
    assert value["bigram", "rule_precision", "baseline"] < 0.9


def test_auroc_counts_ties_half() -> None:
    score, positive = np.array([3.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False])
    assert auroc(score, positive) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_words_for_odd_tokens_and_long_lists() -> None:
    assert quote("\n\n") == "a blank line" and quote(" de") == "'de'" and quote("a\nb") == "'a\\nb'"
    assert list_of(["a", "b", "a"]) == "a and b" and list_of(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert list_of(["a", "b", "c"], "or") == "a, b or c"


def test_promoted_tokens_skip_pieces_and_repeats() -> None:
    rows = [(0, " sea"), (0, "\\xe2"), (0, "Sea"), (0, " "), (0, " coast"), (2, "x")]
    assert promoted_tokens(rows) == {0: (" sea", " coast"), 2: ("x",)}


class FakeReader:
    """Stands in for an activations reader: holds given arrays."""

    d_model, n_neurons, neuron_ids = 4, 3, [5, 9, 11]

    def __init__(self) -> None:
        import torch

        generator = torch.Generator().manual_seed(2)
        self.r = torch.randn(600, 4, generator=generator)
        self.neurons = torch.randn(600, 3, generator=generator)
        self.neurons[:, 1] = -(self.neurons[:, 1] ** 2)  # active on the negative side

    def scaled(self, r):
        return 2.0 * r

    def token_index(self, split: str):
        import torch

        return torch.arange(400) if split == "train" else torch.arange(400, 600)

    def gather(self, token_index):
        return self.r[token_index]

    def gather_neurons(self, token_index):
        return self.neurons[token_index]


def test_dense_units_are_as_dense_as_their_features(tmp_path: Path) -> None:
    reader = FakeReader()
    for make in (random_directions, mlp_neurons):
        units = make(reader, np.array([7, 40, 100]), seed=0)  # pyright: ignore[reportArgumentType]
        assert units.train.count_U.tolist() == [7, 40, 100]
        assert (units.held_out.value > 0).all() and set(units.held_out.token_index.tolist()) <= set(range(400, 600))
    assert units.ids.tolist() == [5, 9, 11]
    save_units([units], tmp_path / "units.safetensors")
    (back,) = load_units(tmp_path / "units.safetensors")
    assert (back.unit, back.ids.tolist()) == (units.unit, units.ids.tolist())
    assert (back.held_out.token_index == units.held_out.token_index).all() and (back.train.value == units.train.value).all()
    # The skewed neuron is read on its long side: its active tokens are the most negative ones.
    negative = np.argsort(reader.neurons[:400, 1].numpy())[:40]
    assert set(units.train.of(1)[0].tolist()) == set(negative.tolist())


def test_pieces_of_words_are_shown_with_the_word() -> None:
    tokens = make_tokens()
    at = np.flatnonzero((tokens.position_N > 2) & (tokens.position_N < 30) & (np.arange(tokens.n_tokens) % 11 == 0))
    tokens.token_id_N[at], tokens.token_id_N[at + 1] = token("isl"), token("ands")
    tokens.token_id_N[at - 1] = token("\n")
    from tests.science.interpret_world import sparse_of

    mask = np.zeros(tokens.n_tokens, dtype=bool)
    mask[at + 1] = True
    units = Units("sae_feature", np.arange(1), sparse_of([mask], tokens.train_N), sparse_of([mask], tokens.test_N), np.arange(1))
    (explanation,) = TokenStats(RuleIndex(tokens), units, {}).explain([0])
    assert (explanation.text or "").startswith("Fires on 'ands' (in 'islands') (100 %")


def test_pairs_of_tokens_are_written_as_readers_see_them() -> None:
    def written(*pairs: tuple[int, int]) -> str:
        texts = {1: "\n", 2: " Come", 3: " armed", 4: " forces", 5: ""}
        facts = Facts(Rule("bigram", pairs), 0.5, 0.5, texts, {}, None, None, None, False, (), ())
        return sentence(facts)

    assert "'Come' at the start of a line and 'armed forces' (50 %" in written((1, 2), (3, 4))
    assert "'Come' at the start of a text" in written((5, 2), (3, 4))
    assert written((3, 4)).startswith("Fires on 'forces' after 'armed' (50 %")
