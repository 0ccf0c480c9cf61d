import numpy as np
import pandera.errors
import polars as pl
import pytest

from sae_pipeline.tables.columns import CONTROLS, STATUSES
from sae_pipeline.tables.schemas import SCHEMAS, TABLES, check, conform, empty


def specificity(**changed) -> pl.DataFrame:
    row = {
        "size": 64, "unit": "sae_feature", "unit_id": 3, "feature": 3, "example_id": 0, "kind": "active", "interval": 2,
        "activation": 1.5, "token_index": 77, "control": "none", "method": "proxy", "model": None, "score": 0, "status": "ok",
        "evidence": "top token", "cost_usd": 0.0, "plumbing": False,
    }  # fmt: skip
    return pl.DataFrame([row | changed])


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_accepts_no_rows_and_refuses_an_unknown_column(name):
    check(name, empty(name))
    with pytest.raises(pandera.errors.SchemaErrors, match="surprise"):
        check(name, empty(name).with_columns(surprise=pl.lit(1)))


def test_every_column_says_what_it_means():
    for name, schema in SCHEMAS.items():
        assert schema.description, name
        for column, spec in schema.columns.items():
            assert spec.description, f"{name}.{column}"


def test_conform_casts_orders_and_keeps_a_score_of_zero():
    frame = conform("specificity_scores", specificity().select(pl.all().reverse().name.keep()))
    assert frame.schema["score"] == pl.Int8
    assert frame.columns == list(SCHEMAS["specificity_scores"].columns)
    assert frame["score"].to_list() == [0]


@pytest.mark.parametrize(
    "changed",
    [
        {"score": 4},
        {"score": -1},
        {"score": None},
        {"status": "refusal"},
        {"status": "fine", "score": None},
        {"control": "placebo"},
        {"kind": "maybe"},
        {"interval": 11},
        {"feature": None},
        {"unit": "mlp_neuron"},
        {"cost_usd": None},
        {"cost_usd": float("nan")},
    ],
)
def test_impossible_specificity_rows_are_refused(changed):
    with pytest.raises(pandera.errors.SchemaErrors):
        conform("specificity_scores", specificity(**changed))


def test_a_refusal_has_no_score_and_a_neuron_no_feature():
    assert conform("specificity_scores", specificity(status="refusal", score=None))["score"].to_list() == [None]
    assert conform("specificity_scores", specificity(unit="mlp_neuron", feature=None))["feature"].to_list() == [None]


def test_a_row_may_occur_once():
    with pytest.raises(pandera.errors.SchemaErrors, match="not unique"):
        conform("specificity_scores", pl.concat([specificity(), specificity()]))


def test_integer_width_is_part_of_the_schema():
    with pytest.raises(pandera.errors.SchemaErrors, match="Int"):
        check("specificity_scores", specificity())


def test_lazy_frames_are_refused_because_their_values_would_go_unseen():
    with pytest.raises(TypeError, match="collected"):
        check("specificity_scores", specificity(score=9).lazy())  # pyright: ignore[reportArgumentType]


def test_fixed_width_lists_pass_as_lists_and_parallel_lists_have_one_length():
    frame = pl.DataFrame(
        {"block": [0], "split": ["train"], "token_ids": np.zeros((1, 8), np.int32), "doc_ids": np.zeros((1, 8), np.int32)},
        schema_overrides={"block": pl.Int32},
    )
    assert check("blocks", frame) is frame
    with pytest.raises(pandera.errors.SchemaErrors, match="same_length"):
        check("blocks", frame.with_columns(doc_ids=pl.lit([1], pl.List(pl.Int32))))


def test_enums_are_those_of_the_design():
    assert CONTROLS == (
        "none", "baseline", "shuffled", "random_feature", "random_direction", "mlp_neuron", "random_model", "prompt_only",
    )  # fmt: skip
    assert "refusal" in STATUSES and "ok" in STATUSES
