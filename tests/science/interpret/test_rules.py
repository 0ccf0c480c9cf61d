import json

import numpy as np
import pytest

from sae_pipeline.interpret.rule_fit import best_cells, context_words, fit_rules, strongest
from sae_pipeline.interpret.rules import PARTITIONS, Rule, RuleIndex
from tests.science.interpret_world import CONTEXT, PLANTED, make_tokens, make_units, planted_masks, token


@pytest.fixture(scope="module")
def index() -> RuleIndex:
    return RuleIndex(make_tokens())


def brute_force(rule: dict, index: RuleIndex, i: int) -> bool:
    """A second reading of the rule language, token by token."""
    t = index.tokens
    position = i % CONTEXT
    here, before = int(t.token_id_N[i]), int(t.token_id_N[i - 1]) if position else t.n_vocabulary
    after = int(t.token_id_N[i + 1]) if position < CONTEXT - 1 else t.n_vocabulary
    group, cells = t.group_names[t.group_N[i]], rule["cells"]
    if rule["key"] == "near":
        words = {"".join(t.token_text[t.token_id_N[j]]).strip() for j in range(max(i - rule["before"], i - position), i)}
        return bool(words & set(cells))
    return {
        "token": lambda: here in cells,
        "previous": lambda: before in cells,
        "next": lambda: after in cells,
        "bigram": lambda: [before, here] in cells,
        "token_in": lambda: [group, here] in cells,
        "class_in": lambda: ["numbers" if t.token_text[here].strip().isdigit() else "word", group] in [c[::-1] for c in cells],
        "position": lambda: any(low <= position <= high for low, high in cells),
    }[rule["key"]]()


@pytest.mark.parametrize(
    "rule",
    [
        {"key": "token", "cells": [token(" island"), token(" 3"), 10_000]},
        {"key": "previous", "cells": [token(" the")]},
        {"key": "next", "cells": [token(" of"), token(" a")]},
        {"key": "bigram", "cells": [[token(" armed"), token(" forces")], [token(" the"), token(" the")]]},
        {"key": "token_in", "cells": [["sea", token(" of")], ["nowhere", 3]]},
        {"key": "class_in", "cells": [["law", "numbers"]]},
        {"key": "position", "cells": [[1, 1], [4, 7]]},
        {"key": "near", "cells": ["verdict", "tide"], "before": 5},
    ],
    ids=lambda rule: rule["key"],
)
def test_a_rule_holds_where_a_token_by_token_reading_says(index: RuleIndex, rule: dict) -> None:
    holds = index.holds_N(Rule.from_json(json.dumps(rule)))
    expected = [brute_force(rule, index, i) for i in range(index.tokens.n_tokens)]
    assert holds.tolist() == expected
    assert 0 < holds.sum() < len(holds)


def test_rules_survive_json(index: RuleIndex) -> None:
    for key in PARTITIONS:
        cells = index.cells(key)
        rule = Rule(key, tuple(cells.describe(cell) for cell in (0, cells.n_cells // 2, cells.n_cells - 1)))
        back = Rule.from_json(rule.to_json())
        assert back == rule
        assert sorted(cells.find(back.cells)) == [0, cells.n_cells // 2, cells.n_cells - 1]
    with pytest.raises(ValueError, match="unknown rule key"):
        Rule.from_json('{"key": "mood", "cells": []}')


def test_counts_of_many_rules_equal_counting_one_by_one(index: RuleIndex) -> None:
    units = make_units(index.tokens)
    rules: list[Rule | None] = [
        Rule("token", (token(" island"),)), Rule("bigram", ((token(" armed"), token(" forces")),)),
        Rule("near", ("verdict",), 16), Rule("class_in", (("sea", "numbers"),)), None, Rule("position", ((1, 1), (2, 3))),
        Rule("token", (10_000,)),
        Rule("previous", (token(" the"), token(" a"))), Rule("token", (token(" of"),)),
    ]  # fmt: skip
    n_held, n_hit, mass = index.count(rules, units.held_out, index.tokens.test_N)
    for unit, rule in enumerate(rules):
        holds = index.holds_N(rule) & index.tokens.test_N if rule else np.zeros(index.tokens.n_tokens, dtype=bool)
        token_index, value = units.held_out.of(unit)
        assert n_held[unit] == holds.sum()
        assert n_hit[unit] == holds[token_index].sum()
        assert mass[unit] == pytest.approx(value[holds[token_index]].sum() / value.sum() if len(value) else 0.0, rel=1e-5)


def test_planted_rules_are_found_from_train_tokens(index: RuleIndex) -> None:
    units = make_units(index.tokens)
    columns = np.array([PLANTED.index(name) for name in ("token", "bigram", "near", "class_in", "position", "previous", "noise")])
    fitted = fit_rules(index, units.train, columns)
    masks = planted_masks(index.tokens)
    for name in ("token", "bigram", "near", "class_in", "position", "previous"):
        rule = fitted.rules[PLANTED.index(name)]
        assert rule is not None and rule.key == name, (name, rule)
        holds = index.holds_N(rule) & index.tokens.test_N
        truth = masks[name] & index.tokens.test_N
        assert 2 * (holds & truth).sum() / (holds.sum() + truth.sum()) > 0.9, name
        assert fitted.f1_U[PLANTED.index(name)] > 0.85
    assert fitted.f1_U[PLANTED.index("noise")] < 0.2
    assert fitted.rules[PLANTED.index("rare")] is None  # not asked for


def test_the_best_set_of_cells_is_the_best_of_all_subsets() -> None:
    random = np.random.default_rng(3)
    n_cells = 7
    base = random.integers(3, 20, n_cells)
    active = np.array([random.integers(0, b + 1) for b in base])
    n_active = int(active.sum()) + 5
    rows = np.repeat(np.arange(n_cells), active)
    fit = best_cells(np.zeros(len(rows), dtype=np.int64), rows, base, np.array([n_active]), n_cells)
    best = 0.0
    for subset in range(1, 2**n_cells):
        chosen = [c for c in range(n_cells) if subset >> c & 1 and active[c] >= 2]
        hits, held = sum(active[c] - 1 for c in chosen), sum(base[c] for c in chosen)
        best = max(best, 2 * hits / (held + n_active))
    assert fit.f1_U[0] == pytest.approx(best)
    one = best_cells(np.zeros(len(rows), dtype=np.int64), rows, base, np.array([n_active]), 1)
    assert len(one.of(0)) == 1 and one.of(0)[0] == fit.of(0)[0]


def test_held_out_activations_do_not_change_a_rule(index: RuleIndex) -> None:
    units = make_units(index.tokens)
    # The same train activations with other held-out tokens in the corpus: the fit may read train tokens only.
    other = make_tokens()
    held = np.flatnonzero(other.held_out_N & other.kept_N)
    other.token_id_N[held] = np.random.default_rng(5).permutation(other.token_id_N[held])
    columns = units.explained[units.train.count_U[units.explained] >= 10]
    mine, theirs = fit_rules(index, units.train, columns), fit_rules(RuleIndex(other), units.train, columns)
    assert mine.rules == theirs.rules


def test_context_words_name_the_planted_word(index: RuleIndex) -> None:
    units = make_units(index.tokens)
    words = context_words(index, units.train, np.array([PLANTED.index("near")]))
    assert words[PLANTED.index("near")][0] == "verdict"


def test_strongest_are_the_largest_values(index: RuleIndex) -> None:
    units = make_units(index.tokens)
    column = PLANTED.index("class_in")
    unit, at = strongest(units.train, np.array([column]), 20)
    token_index, value = units.train.of(column)
    expected = token_index[np.argsort(-value, kind="stable")[:20]]
    assert at.tolist() == expected.tolist() and set(unit.tolist()) == {column}
