"""What the strongest features of a prompt are about: emotion (row 54), the unnamed middle of a two-step fact (55)."""

import re
from collections.abc import Sequence

import numpy as np
import polars as pl

from sae_pipeline.survey.attribution.prompts import Prompt
from sae_pipeline.survey.attribution.statistics import TOP
from sae_pipeline.survey.attribution.topics import Topics

N_STRONGEST = 5


def share_about(pairs: pl.DataFrame, about: frozenset[int]) -> tuple[float, float]:
    """(share of a prompt's five pairs of largest attribution whose feature is in `about`, the same for its active features).

    The control is the mean over all features that are active at the positions of those five pairs: what five features drawn at
    random there would give.
    """
    top = pairs.sort("attribution", descending=True).head(N_STRONGEST)
    inside = pl.col("feature").is_in(list(about)).cast(pl.Float64)
    by_position = pairs.group_by("position").agg(inside.mean().alias("share"))
    expected = top.select("position").join(by_position, on="position", how="left")["share"]
    return float(top.select(inside.mean()).item()), float(expected.to_numpy().mean())


def middles(pairs: pl.DataFrame, prompts: Sequence[Prompt], topics: Topics) -> tuple[np.ndarray, np.ndarray]:
    """(whether a feature of the middle is among the ten largest effects, share of other middles of which one is), by prompt.

    `pairs`: of the solved two-step prompts; `prompts`: those prompts in order of id. A feature is one of the middle if it fires
    on the middle's own words, and less often on the words of the prompt: one that reads "Rome" where Italy stands nearby is an
    input, no step. Rivals are the middles of the others, read by the same rule in the same prompt, but not those that go by the
    same first word: France is the middle of its capital and of its language.
    """
    every = sorted({prompt.middle for prompt in prompts})
    found, rivals = [], []
    for prompt in prompts:
        said = re.findall(r"\w+", prompt.text.lower())
        features = {middle: topics.fires_on(middle, said) for middle in every}
        rows = pairs.filter((pl.col("prompt_id") == prompt.prompt_id) & pl.col("ablation").is_not_null())
        top = set(rows.sort("ablation", descending=True).head(TOP)["feature"].to_list())
        hit = {middle: float(bool(top & about)) for middle, about in features.items()}
        found.append(hit[prompt.middle])
        others = [value for middle, value in hit.items() if middle[0] != prompt.middle[0]]
        rivals.append(float(np.mean(others)) if others else 0.0)
    return np.array(found), np.array(rivals)
