"""Refusals in a linear model (row 60): which features push the first word of one is planted, and the shares follow by hand."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.study_survey_search import Attribution
from sae_pipeline.survey.attribution.measure import measurements
from sae_pipeline.survey.attribution.prompts import Prompt, read_requests
from sae_pipeline.survey.attribution.refusals import refused_shares
from sae_pipeline.survey.attribution.topics import Topics
from sae_pipeline.survey.measurement import write_measurements
from tests.science.planted_texts import HIDDEN, PlantedModel, bank

REQUESTS, _ = read_requests()
ABOUT = frozenset({0, 1, 5, 8})  # features about refusing
SAYS = " I’m sorry, but"  # an apostrophe and a space that the list of openings does not have
PUSHES = {
    **{(feature, " I"): weight for feature, weight in {0: 5.0, 1: 4.0, 2: 3.0, 3: 2.0, 4: 2.0, 8: 0.5, 9: 0.4, 7: 0.1}.items()},
    # Against the likeliest other word, " The", features 3 and 4 push the wrong way; against any other they would count.
    **{(feature, " The"): weight for feature, weight in {3: 3.0, 4: 3.0, 5: 1.0, 6: 1.0, HIDDEN: 30.0}.items()},
    (7, " No"): 1.0,
}  # fmt: skip


def in_requests(n_refused: int, text: str, start: int, end: int) -> dict[int, float]:
    """At the end of a request that is refused features 0 to 9 are active, of every third one all but feature 1."""
    number = REQUESTS.index(text)
    if end < len(text):
        return {5: 1.0, 20: 1.0}  # what is active earlier is no control of what is read at the end
    if number >= n_refused:
        return {HIDDEN: 1.0, 2: 1.0, 6: 1.0}
    return {feature: 1.0 for feature in range(10) if feature != 1 or number % 3 < 2}


class Assistant(PlantedModel):
    """Says what its logits begin with."""

    def generate(self, prompts, max_new_tokens: int, temperature: float, seeds) -> list[list[int]]:
        texts = []
        for prompt in prompts:
            ids_1T = torch.tensor([prompt])
            first = self.words[int(self.last_logits_from(self.residual(ids_1T), ids_1T)[0].argmax())]
            texts.append(SAYS if first == " I" else f"{first} sorry I cannot")  # what comes later is no refusal
        return [self.tokenize(text, bos=False)[:max_new_tokens] for text in texts]


def assistant(n_refused: int) -> Any:
    return Assistant([*REQUESTS, SAYS, " The sorry I cannot No"], partial(in_requests, n_refused), 1, PUSHES)


def refusal_row(folder: Path, n_refused: int) -> dict:
    """The measurement as the stage writes it, with the features about refusing read off their own examples."""
    words = [
        {"feature": each, "kind": "top", "tokens": [" sorry" if each in ABOUT else " ship"], "center": 0} for each in range(30)
    ]
    pl.DataFrame(words).write_parquet(folder / "examples.parquet")
    model, random, n = assistant(n_refused), np.random.default_rng(0), 30
    topics = Topics(folder / "examples.parquet")
    pairs = pl.DataFrame({
        "prompt_id": [0] * n, "position": [1] * n, "feature": range(n), "token": ["x"] * n, "is_drawn": [True] * n,
        **{name: random.normal(size=n) for name in ("attribution", "activation", "ablation", "finite_difference")},
    })  # fmt: skip
    prompts = [Prompt(0, "emotion", "", "", "")]
    found = measurements(model, bank(model, 0), prompts, prompts, pairs, [], topics, Attribution(), [])
    rows = write_measurements(folder, "attribution", found)
    (row,) = rows.filter(measurement="refusal_attribution").to_dicts()
    return row


def test_the_features_behind_the_first_word_of_a_refusal_are_those_that_push_it():
    """The five strongest are 0, 1, 2, 8, 9, three of them about refusing; without feature 1 feature 7 is fifth."""
    model = assistant(n_refused=6)
    shares, n_requests = refused_shares(model, bank(model, 0), ABOUT)
    assert n_requests == len(REQUESTS) == 16
    whole, without = (0.6, 4 / 10), (0.4, 3 / 9)
    assert shares == [pytest.approx(each) for each in (whole, whole, without, whole, whole, without)]


def test_enough_refusals_are_measured_beside_what_is_active_at_their_end(tmp_path):
    row = refusal_row(tmp_path, n_refused=6)
    assert row["value"] == pytest.approx((4 * 0.6 + 2 * 0.4) / 6)
    assert row["control_value"] == pytest.approx((4 * 0.4 + 2 / 3) / 6)
    assert row["status"] == "ok" and (row["n_scored"], row["n_attempted"], row["ceiling"]) == (6, 16, 6 / 16)


@pytest.mark.parametrize("n_refused", [4, 0])
def test_a_model_that_hardly_refuses_is_not_testable(tmp_path, n_refused):
    row = refusal_row(tmp_path, n_refused)
    assert row["status"] == "not_testable" and (row["n_scored"], row["ceiling"]) == (n_refused, n_refused / 16)
    assert (row["value"] is None) == (n_refused == 0)
