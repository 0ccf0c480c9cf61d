"""From a few counted questions to all of them: tokens per byte, with the error that the sample itself shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

Z95 = 1.96


@dataclass(frozen=True)
class Tokens:
    """A number of tokens and the half width of its 95 % interval."""

    n: float
    error: float


def spread(n_bytes: Sequence[int], n: int) -> list[int]:
    """Indices of `n` questions (all, if there are fewer) evenly over their order of size: short and long ones in proportion."""
    order = np.argsort(n_bytes, kind="stable")
    if len(order) <= n:
        return order.tolist()
    return order[((np.arange(n) + 0.5) * len(order) / n).astype(int)].tolist()


def by_bytes(n_tokens: Sequence[int], n_bytes: Sequence[int], total_bytes: float) -> Tokens:
    """Tokens of everything that has `total_bytes`, from a sample (ratio estimator; Cochran, Sampling Techniques, chapter 6)."""
    tokens, size = np.asarray(n_tokens, float), np.asarray(n_bytes, float)
    ratio = tokens.sum() / size.sum()
    if len(tokens) < 2:
        return Tokens(ratio * total_bytes, 0.0)
    squares = float(((tokens - ratio * size) ** 2).sum()) * len(tokens) / (len(tokens) - 1)
    return Tokens(ratio * total_bytes, Z95 * np.sqrt(squares) / size.sum() * total_bytes)


def usage_by_prompt(calls: pl.DataFrame, model: str, at_least: int) -> dict[str, tuple[float, float]]:
    """(tokens in per byte sent, tokens out per call) by prompt, from answered calls; prompts with fewer of them are left out."""
    seen = calls.filter(pl.col("status") == "ok", pl.col("model") == model, pl.col("n_bytes") > 0)
    sums = seen.group_by("prompt").agg(
        pl.len(), (pl.col("input_tokens") + pl.col("cache_write_tokens") + pl.col("cache_read_tokens")).sum().alias("tokens"),
        pl.col("n_bytes").sum(), pl.col("output_tokens").mean(),
    )  # fmt: skip
    return {
        row["prompt"]: (row["tokens"] / row["n_bytes"], row["output_tokens"])
        for row in sums.iter_rows(named=True)
        if row["len"] >= at_least
    }
