"""How well a text was steered: does it name the concept, is it still language, does it still answer the question?

After AxBench (Wu et al. 2025): the harmonic mean of three, every part decided by a rule and not by a judge. A text is *relevant*
when its embedding is as close to its prompt as three quarters of the unsteered texts are to theirs.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.steering.fluency import is_fluent
from sae_pipeline.steering.prompts import Prompt
from sae_pipeline.survey.steering.concepts import Topic
from sae_pipeline.survey.steering.methods import BASELINE

RELEVANT_QUANTILE = 0.25


def scored(texts: pl.DataFrame, topics: Sequence[Topic], prompts: Sequence[Prompt], embedder: SentenceEmbedder) -> pl.DataFrame:
    """`texts` (rows of the generator) with `concept`, `hit`, `fluent` and `relevant`.

    Unsteered texts have no concept of their own: `hit` is null there.
    """
    baseline = texts.filter(pl.col("control") == BASELINE)
    nats, repeated = float(baseline["cross_entropy"].mean()), float(baseline["repetition"].mean())  # pyright: ignore[reportArgumentType]
    asked = embedder.texts([prompt.text for prompt in prompts])
    place = {prompt.prompt_id: i for i, prompt in enumerate(prompts)}
    answers = embedder.texts(texts["completion"].to_list())
    cosine_N = np.array([asked[place[id_]] @ answer for id_, answer in zip(texts["prompt_id"], answers, strict=True)])
    bar = np.quantile(cosine_N[(texts["control"] == BASELINE).to_numpy()], RELEVANT_QUANTILE)
    units, completions = texts["unit_id"].to_list(), texts["completion"].to_list()
    return texts.with_columns(
        pl.Series("concept", [None if u is None else topics[u].name for u in units], dtype=pl.String),
        pl.Series(
            "hit",
            [None if u is None else topics[u].concept.in_text(text) for u, text in zip(units, completions, strict=True)],
            dtype=pl.Boolean,
        ),
        pl.Series(
            "fluent",
            [is_fluent(one, two, nats, repeated) for one, two in zip(texts["cross_entropy"], texts["repetition"], strict=True)],
            dtype=pl.Boolean,
        ),
        pl.Series("relevant", (cosine_N >= bar) & texts["completion"].str.strip_chars().ne("").to_numpy(), dtype=pl.Boolean),
    )


def summary(texts: pl.DataFrame) -> pl.DataFrame:
    """Per concept, method and factor: the three rates, smoothed, and `score`, their harmonic mean."""
    grouped = texts.filter(pl.col("concept").is_not_null()).group_by("concept", "control", "factor", "half", maintain_order=True)
    rates = grouped.agg(
        pl.len().alias("n"),
        *(((pl.col(name).sum() + 0.5) / (pl.len() + 1)).alias(f"{name}_rate") for name in ("hit", "fluent", "relevant")),
    )
    parts = [1 / pl.col(f"{name}_rate") for name in ("hit", "fluent", "relevant")]
    return rates.with_columns((3 / sum(parts[1:], parts[0])).alias("score"))
