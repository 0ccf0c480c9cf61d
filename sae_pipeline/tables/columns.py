"""Building blocks of the table schemas: enums, the `column` helper and the `Table` record.

A schema says what a column means, its exact type, which values it may hold and which columns identify a row. Types are exact
(an Int64 is no Int32): Parquet files of all sizes must union without surprises. Unknown columns are refused, so that
docs/tables.md, generated from these schemas, is complete.
"""

from dataclasses import dataclass
from typing import Any

import pandera.polars as pa
import polars as pl

SPLITS = ("train", "held_out")
MASK_REASONS = ("keep", "position_0", "special", "padding", "massive")
UNITS = ("sae_feature", "random_direction", "mlp_neuron", "random_model_feature")
DENSE_UNITS = ("residual_dimension", "mlp_neuron")  # that features are correlated with
CONTROLS = ("none", "baseline", "shuffled", "random_feature", "random_direction", "mlp_neuron", "random_model", "prompt_only")
STATUSES = ("ok", "refusal", "truncated", "invalid", "error", "budget", "not_run", "too_few_examples")
EXPLANATION_KINDS = ("token", "phrase", "topic", "syntax", "position", "other")
SCORED_KINDS = ("active", "close_look", "same_token_inactive", "random")
CONFIDENCES = ("low", "medium", "high")
EXAMPLE_KINDS = ("top", "interval")
STEERING_MODES = ("clamp", "add", "none")
HALVES = ("choose", "report")
SELECTIONS = ("random", "output_score", "requested")
N_INTERVALS = 10
MAX_SCORE = 3


@dataclass(frozen=True)
class Table:
    """One table. `key`: columns that identify a row. `file`: where its rows come from, relative to the study's folder.

    `in_database`: whether `analysis.duckdb` holds it (files that SQL can read in place are left where they are).
    `ascending`: rows come in strictly ascending order of the key, so that a row cannot occur twice.
    """

    name: str
    description: str
    file: str
    key: tuple[str, ...]
    schema: pa.DataFrameSchema
    in_database: bool = True
    ascending: bool = False


def column(dtype: Any, description: str, *checks: pa.Check, nullable: bool = False, required: bool = True) -> pa.Column:
    """A column with its meaning. Nullable and optional columns must say so."""
    return pa.Column(dtype, checks=list(checks), nullable=nullable, required=required, description=description)


def table(
    name: str,
    description: str,
    columns: dict[str, pa.Column],
    *,
    file: str,
    key: tuple[str, ...],
    checks: tuple[pa.Check, ...] = (),
    in_database: bool = True,
    ascending: bool = False,
) -> Table:
    """Assemble a `Table`; its rows are unique over `key` (`ascending`: sorted, too) and unknown columns are refused."""
    if ascending:
        checks = (*checks, strictly_ascending(*key))
    schema = pa.DataFrameSchema(
        columns, checks=list(checks), name=name, strict=True, unique=None if ascending else list(key), description=description
    )
    return Table(name, description, file, key, schema, in_database, ascending)


def one_of(values: tuple[str, ...]) -> pa.Check:
    """The value is a member of an enum."""
    return pa.Check.isin(list(values))


def size() -> pa.Column:
    """The partition key."""
    return column(pl.Int32, "Number of features of the SAE (the partition key)", pa.Check.ge(1))


def feature(nullable: bool = False) -> pa.Column:
    """Index of an SAE feature."""
    description = "Feature index, from 0" + ("; null for units that are not SAE features" if nullable else "")
    return column(pl.Int32, description, pa.Check.ge(0), nullable=nullable)


def share(description: str, nullable: bool = False) -> pa.Column:
    """A fraction between 0 and 1."""
    return column(pl.Float64, description, pa.Check.in_range(0, 1), nullable=nullable)


def count(description: str, nullable: bool = False) -> pa.Column:
    """A number of things."""
    return column(pl.Int64, description, pa.Check.ge(0), nullable=nullable)


def value_exactly_when_ok(value: str) -> pa.Check:
    """`value` is there exactly when the status is `ok`: a refusal or a budget stop is never a score."""
    return pa.Check(
        lambda data: data.lazyframe.select((pl.col("status") == "ok") == pl.col(value).is_not_null()),
        name=f"{value}_exactly_when_status_is_ok",
    )


def same_length(*lists: str) -> pa.Check:
    """Parallel list columns have one length per row."""
    first, *others = lists
    return pa.Check(
        lambda data: data.lazyframe.select(
            pl.all_horizontal([pl.col(first).list.len() == pl.col(other).list.len() for other in others]).alias("equal")
        ),
        name=f"same_length_{'_'.join(lists)}",
    )


def strictly_ascending(major: str, minor: str) -> pa.Check:
    """Rows are sorted by (major, minor) and no pair occurs twice."""
    later = (pl.col(major).diff() > 0) | ((pl.col(major).diff() == 0) & (pl.col(minor).diff() > 0))
    return pa.Check(lambda data: data.lazyframe.select(later.fill_null(True)), name=f"strictly_ascending_by_{major}_and_{minor}")


def feature_exactly_for_sae_features() -> pa.Check:
    """`feature` is there exactly when the unit is an SAE feature, and then it is the unit's id."""
    is_feature = pl.col("unit") == "sae_feature"
    return pa.Check(
        lambda data: data.lazyframe.select(pl.col("feature").eq_missing(pl.when(is_feature).then(pl.col("unit_id")))),
        name="feature_is_unit_id_exactly_for_sae_features",
    )
