"""What the report shows, read from the analysis database: plain dictionaries for the template."""

from typing import Any

import duckdb
import polars as pl

from sae_pipeline.report.tokens import readable, shown_tokens

N_STEERED = 5  # before/after pairs
N_CARDS = 4  # random features per size
N_EXAMPLES = 4  # windows per card
Row = dict[str, Any]

# Drawn by a hash of the key: the same in every build, and no feature was looked at before it was chosen.
_RANDOM_FEATURES = """
    select size, feature, density, max_activation, top_token, top_token_share
    from features where alive
    qualify row_number() over (partition by size order by hash(size, feature), feature) <= $n
    order by size, feature
"""


def rows(connection: duckdb.DuckDBPyConnection, query: str, **parameters: Any) -> list[Row]:
    """Query result as dictionaries."""
    return connection.sql(query, params=parameters or None).pl().to_dicts()


def steered_features(connection: duckdb.DuckDBPyConnection, n: int = N_STEERED) -> list[Row]:
    """The steered features with the clearest effect, each with its explanation and one before/after pair."""
    found = rows(connection, "select * from best_steerable where best_factor is not null limit $n", n=n)
    for row in found:
        row["explanation"] = explanation(connection, row["size"], row["feature"])
        row["concept_terms"] = [readable(term, 40) for term in row["concept_terms"]]
        pair = {key: row[key] for key in ("prompt", "before", "after")}
        row["pair"] = {key: readable(text) for key, text in pair.items()} if row["after"] is not None else None
    return found


def random_features(connection: duckdb.DuckDBPyConnection, n: int = N_CARDS) -> list[Row]:
    """`n` living features per size drawn at random, with explanation, strongest examples and mean scores."""
    found = rows(connection, _RANDOM_FEATURES, n=n)
    for row in found:
        key = {"size": row["size"], "feature": row["feature"]}
        row["explanation"] = explanation(connection, **key)
        row["examples"] = [
            {
                "tokens": shown_tokens(example["tokens"], example["activations"], row["max_activation"], example["center"]),
                "activation": example["activation"], "source": example["source"], "title": readable(example["title"], 80),
            }
            for example in rows(
                connection,
                "select tokens, activations, center, activation, source, title"
                " from feature_examples join documents using (doc_id)"
                " where size = $size and feature = $feature and kind = 'top' order by rank limit $n",
                n=N_EXAMPLES, **key,
            )
        ]  # fmt: skip
        row["scores"] = rows(
            connection,
            "select control, method, avg(score) as mean, count(score) as n_scored, count(*) as n_attempted"
            " from believed_specificity_scores where size = $size and feature = $feature and kind = 'active'"
            " and control in ('none', 'shuffled')"
            " group by control, method order by method, control",
            **key,
        )
    return found


def explanation(connection: duckdb.DuckDBPyConnection, size: int, feature: int) -> Row | None:
    """The feature's explanation; None when there is no row, a row without text when there is a reason for having none."""
    found = rows(
        connection,
        "select text, kind, method, model, status from explanations"
        " where size = $size and feature = $feature and control = 'none' and not plumbing"
        " order by (status = 'ok') desc, method, model limit 1",
        size=size, feature=feature,
    )  # fmt: skip
    if not found:
        return None
    return found[0] | {"text": readable(found[0]["text"], 600) if found[0]["text"] else None}


def pivot(comparison: pl.DataFrame, subject: str, metric: str) -> list[Row]:
    """One row per (size, method) with a cell per control: [{"size", "method", "cells": {control: row}}]."""
    chosen = comparison.filter((pl.col("subject") == subject) & (pl.col("metric") == metric))
    table: dict[tuple[int, str], Row] = {}
    for row in chosen.sort("method", "size", "control").iter_rows(named=True):
        entry = table.setdefault((row["size"], row["method"]), {"size": row["size"], "method": row["method"], "cells": {}})
        entry["cells"][row["control"]] = row
    return list(table.values())
