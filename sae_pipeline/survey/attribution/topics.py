"""Which features are about a list of words, judged by their own strongest training examples and by nothing else."""

import re
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from sae_pipeline.survey.thresholds import thresholds

TOKENS_BACK = 3


class Topics:
    """The ends of every feature's strongest training examples: the active token and the three tokens before it, and the word that
    the active token completes."""

    def __init__(self, examples: Path) -> None:
        """`examples`: the file `feature_examples.parquet` of one size."""
        top = pl.scan_parquet(examples).filter(pl.col("kind") == "top").select("feature", "tokens", "center").collect()
        first = (pl.col("center").cast(pl.Int64) - TOKENS_BACK).clip(lower_bound=0)
        last = pl.col("center").cast(pl.Int64) + 1
        self._ends = top.select("feature", pl.col("tokens").list.slice(first, last - first).list.join("").str.to_lowercase())

        word = pl.col("tokens").str.extract(r"(\w+)$").alias("word")
        counts = (
            self._ends.group_by("feature", word).len().with_columns(share=pl.col("len") / pl.col("len").sum().over("feature"))
        )
        self._shares = counts.drop_nulls("word")

    def fires_on(self, words: Iterable[str], rather_than: Iterable[str]) -> frozenset[int]:
        """Features that are active on one of the words (lower case) in at least a fifth of their examples, and more often than on
        any of the words `rather_than` taken together."""
        on, off = (
            self._shares.filter(pl.col("word").is_in(list(each))).group_by("feature").agg(pl.col("share").sum())
            for each in (words, rather_than)
        )
        both = on.join(off, on="feature", how="left", suffix="_off").with_columns(pl.col("share_off").fill_null(0.0))
        chosen = both.filter((pl.col("share") >= thresholds().topic_share) & (pl.col("share") > pl.col("share_off")))
        return frozenset(chosen["feature"].to_list())

    def about(self, words: Iterable[str]) -> frozenset[int]:
        """Features of whose examples at least a fifth has one of the words (lower case; whole words) at its end."""
        pattern = "|".join(rf"\b{re.escape(word)}\b" for word in words)
        share = self._ends.group_by("feature").agg(pl.col("tokens").str.contains(pattern).mean().alias("share"))
        return frozenset(share.filter(pl.col("share") >= thresholds().topic_share)["feature"].to_list())
