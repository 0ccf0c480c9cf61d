"""Rows of the two tables of this stage."""

from collections.abc import Sequence

import polars as pl

from sae_pipeline.survey.attribution.prompts import Prompt
from sae_pipeline.survey.attribution.statistics import TOP, correlations_by_prompt, relative_errors, top_overlap
from sae_pipeline.tables.schemas import conform


def prompt_rows(prompts: Sequence[Prompt], screened: pl.DataFrame, pairs: pl.DataFrame, size: int) -> pl.DataFrame:
    """`attribution_prompts`: every prompt; what was measured is null for those that were not."""
    drawn = pairs.filter("is_drawn")
    counts = pairs.group_by("prompt_id").agg(pl.len().alias("n_pairs"), pl.col("ablation").is_not_null().sum().alias("n_ablated"))
    measured = counts.sort("prompt_id").with_columns(
        pl.Series("attribution_correlation", correlations_by_prompt(drawn, "attribution", "ablation"), dtype=pl.Float64),
        pl.Series("activation_correlation", correlations_by_prompt(drawn, "activation", "ablation"), dtype=pl.Float64),
        pl.Series("attribution_overlap", top_overlap(drawn, "attribution", "ablation"), dtype=pl.Float64),
        pl.Series("activation_overlap", top_overlap(drawn, "activation", "ablation"), dtype=pl.Float64),
        pl.Series(
            "finite_difference_error",
            relative_errors(pairs.drop_nulls("finite_difference"), "attribution", "finite_difference"),
            dtype=pl.Float64,
        ),
    )
    names = pl.DataFrame({
        "size": size, "prompt_id": [one.prompt_id for one in prompts], "family": [one.group for one in prompts],
        "prompt": [one.text for one in prompts], "target": [one.target for one in prompts],
        "baseline": [one.baseline for one in prompts],
    }, schema_overrides={"prompt_id": pl.Int32})  # fmt: skip
    joined = pl.concat([names, screened], how="horizontal").join(
        measured.with_columns(pl.col("prompt_id").cast(pl.Int32)), on="prompt_id", how="left", maintain_order="left"
    )
    return conform("attribution_prompts", joined)


def feature_rows(pairs: pl.DataFrame, size: int) -> pl.DataFrame:
    """`attribution_features`: the pairs that are among the ten largest of a prompt by attribution, activation or ablation."""
    ranked = pairs.with_columns(
        pl.col(name).rank("ordinal", descending=True).over("prompt_id").alias(f"{name}_rank")
        for name in ("attribution", "activation", "ablation")
    )
    top = ranked.filter(pl.any_horizontal((pl.col(f"{name}_rank") <= TOP) for name in ("attribution", "activation", "ablation")))
    columns = ["prompt_id", "position", "feature", "token", "activation", "attribution", "ablation"]
    ranks = ["attribution_rank", "activation_rank", "ablation_rank"]
    return conform("attribution_features", top.select(pl.lit(size).alias("size"), *columns, *ranks))
