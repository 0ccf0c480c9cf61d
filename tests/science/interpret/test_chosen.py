"""Features that are looked at closely: which ones the rule takes, and that they weigh no more than the others."""

import numpy as np
import polars as pl
import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.arms import MIN_CLEAR, chosen_columns, scored_columns
from sae_pipeline.interpret.build_explanations import build_explanations
from sae_pipeline.interpret.build_specificity import build_specificity_scores
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import close_look
from sae_pipeline.study import Explain, Score, parse_study
from tests.science.interpret_world import PLANTED, make_units

SCORE = Score(n_features=8, examples_per_interval=2, n_controls=4)


def planted() -> Units:
    """Clear (two), skewed, gappy, too rare, silent; the held-out side is the same for all and must not matter."""
    random = np.random.default_rng(0)
    even = np.linspace(0.005, 1.0, 400)
    values = [np.sqrt(even), even, even**3, np.where(even < 0.5, 0.05, 1.0), np.sqrt(np.linspace(0.01, 1, MIN_CLEAR - 1)), []]
    unit = np.repeat(np.arange(6), [len(each) for each in values])
    index = np.concatenate([np.arange(len(each)) for each in values])
    train = SparseActivations.from_arrays(unit, index, np.concatenate(values).astype(np.float32), 6)
    held_out = SparseActivations.from_arrays(np.arange(6), np.arange(6), random.random(6).astype(np.float32), 6)
    return Units("sae_feature", np.arange(6), train, held_out, np.arange(6))


def test_the_rule_takes_full_intervals_first_and_then_the_strongest() -> None:
    units, score = planted(), Score(n_features=6)
    in_order = [chosen_columns(units, score.model_copy(update={"chosen": n})) for n in range(1, 7)]
    assert in_order == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]


def test_by_rule_no_feature_more_is_scored_and_by_name_one_is() -> None:
    units, few = planted(), Score(n_features=2, seed=3)
    sample = scored_columns(units, few)
    by_rule = few.model_copy(update={"chosen": 2})
    assert scored_columns(units, by_rule) == sample == chosen_columns(units, by_rule)
    (other, *_) = sorted({0, 1, 2, 3, 4, 5} - set(sample))
    assert set(scored_columns(units, few.model_copy(update={"chosen": [other, 99]}))) == {*sample, other}


def test_a_close_look_spreads_over_the_intervals_and_fills_up_to_its_number(index) -> None:
    units, column = make_units(index.tokens), PLANTED.index("noise")
    everything = close_look(units, column, 10_000, [], np.random.default_rng(0))
    for n in (5, 17, 10_000):
        found = close_look(units, column, n, [], np.random.default_rng(0))
        assert len(found) == len({each.token_index for each in found}) == min(n, int(units.held_out.count_U[column]))
        assert {each.kind for each in found} == {"close_look"}
    whole, some = (
        np.bincount([each.interval or 0 for each in found], minlength=11)[1:]
        for found in (everything, close_look(units, column, 17, [], np.random.default_rng(0)))
    )
    assert (some <= whole).all() and some[some < whole].min(initial=99) >= some.max() - 1  # as even as they allow
    seen = everything[::2]
    rest = close_look(units, column, 10_000, seen, np.random.default_rng(0))
    assert sorted(each.token_index for each in [*seen, *rest]) == sorted(each.token_index for each in everything)


def test_a_close_look_adds_windows_and_changes_nothing_else(folders, embedder, tmp_path) -> None:
    made = {}
    for name, chosen in (("plain", None), ("close", 1)):
        explained, scored = tmp_path / name / "explained", tmp_path / name / "scored"
        explained.mkdir(parents=True)
        scored.mkdir()
        score = SCORE.model_copy(update={"chosen": chosen, "examples_per_chosen": 60})
        shared = {"size": 9, "score": score, "corpus": folders.corpus, "activations": folders.activations}
        shared |= {"feature_stats": folders.feature_stats, "embedder": embedder}
        build_explanations(**shared, explain=Explain(), work=explained)
        outcome = build_specificity_scores(**shared, explanations=explained, work=scored)
        made[name] = pl.read_parquet(scored / "specificity_scores.parquet"), outcome.metadata
    (plain, before), (close, after) = made["plain"], made["close"]
    more = close.filter(kind="close_look", control="none")
    (feature,) = more["feature"].unique()
    assert feature != PLANTED.index("rare") and 30 < more.height <= 60 and more["score"].null_count() == 0
    # No window twice, and every interval that holds anything is seen.
    mine = close.filter(pl.col("kind").is_in(["active", "close_look"]), feature=feature, control="none")
    assert mine["token_index"].is_unique().all() and set(mine["interval"]) == set(range(1, 11))
    assert close.filter(pl.col("kind") != "close_look").drop("example_id").equals(plain.drop("example_id"))
    new = {name: value for name, value in after.items() if "close_look" not in name and name != "windows_by_arm"}
    assert new == {name: value for name, value in before.items() if name != "windows_by_arm"}
    assert [row for row in after["windows_by_arm"] if row["kind"] != "close_look"] == before["windows_by_arm"]


def test_none_cannot_be_chosen() -> None:
    raw = {
        "name": "x", "model": {"source": "hub", "id": "gpt2"}, "hook": {"after_block": 0}, "sae": {"sizes": [64]},
        "corpus": {"sources": [{"kind": "builtin", "name": "python_stdlib", "tokens": 1000}]}, "score": {"chosen": 0},
    }  # fmt: skip
    with pytest.raises(UserError, match="chosen"):
        parse_study(raw)
