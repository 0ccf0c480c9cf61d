"""The null of random directions finds what an exhaustive search finds, and a direction that was planted."""

import numpy as np
import pytest
import torch

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.interpret.units import directions
from sae_pipeline.steering.interventions import random_directions
from sae_pipeline.survey.completeness.mentions import Concept, Mentions
from sae_pipeline.survey.completeness.presence import best_units, unit_chunks
from sae_pipeline.survey.completeness.random_directions import best_directions
from tests.science.interpret_world import make_tokens, make_units, write_artefacts


def directed_world(folder, n_directions: int, planted: int | None):
    """Reader and mentions of a world of noise in which random direction `planted`, if any, stands for every island."""
    tokens = make_tokens(200)
    mentions = Mentions.find(tokens, [Concept("sea", "island"), Concept("law", "judge")])
    reader = ActivationReader.open(write_artefacts(folder, tokens, make_units(tokens), d_model=32).activations)
    if planted is not None:
        row_D = random_directions(n_directions, reader.d_model, torch.Generator().manual_seed(5))[planted]
        at = np.flatnonzero(mentions.word_M == mentions.words.index("island"))
        flat_ND = reader.shards[0]["activations_BTD"].flatten(0, 1)
        flat_ND[torch.from_numpy(np.isin(mentions.mention_N, at))] += 40 * row_D
    return reader, mentions


@pytest.mark.parametrize("planted", [None, 123])
def test_the_shortlist_of_random_directions_holds_what_an_exhaustive_search_finds(tmp_path, monkeypatch, planted):
    monkeypatch.setattr("sae_pipeline.survey.completeness.random_directions.N_SAMPLE_TOKENS", 1500)
    monkeypatch.setattr("sae_pipeline.survey.completeness.random_directions.DIRECTIONS_AT_ONCE", 64)
    n = 200
    reader, mentions = directed_world(tmp_path, n, planted)
    n_island = int(mentions.count("train")[mentions.words.index("island")])
    n_matched = np.random.default_rng(2).integers(0, 2 * n_island, n)
    n_matched[123] = n_island
    found = best_directions(reader, mentions, np.arange(2), n_matched, seed=5).sort("word")
    rows_FD = random_directions(n, reader.d_model, torch.Generator().manual_seed(5))
    every = directions(reader, rows_FD, n_matched)
    exhaustive = best_units(unit_chunks({"train": every.train, "held_out": every.held_out}), mentions).sort("word")
    columns = ["word", "f1_train", "f1_held_out"]
    np.testing.assert_allclose(found.select(columns).to_numpy(), exhaustive.select(columns).to_numpy(), atol=1e-9)
    if planted is not None:
        island = found.filter(word=mentions.words.index("island")).row(0, named=True)
        assert island["unit"] == planted and island["f1_held_out"] > 0.9
