"""Mentions, best units and the law on planted cases; the whole stage on the finished tiny study."""

import numpy as np
import polars as pl
import pytest

from assets.completeness import f1_recounted
from assets.verdicts import schema_check
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.study_survey import Completeness
from sae_pipeline.survey.completeness.build import build_completeness
from sae_pipeline.survey.completeness.law import fit_sigmoid
from sae_pipeline.survey.completeness.measure import completeness_measurements
from sae_pipeline.survey.completeness.mentions import Concept, Mentions, read_concepts
from sae_pipeline.survey.completeness.presence import best_units
from sae_pipeline.survey.completeness.random_directions import best_directions
from tests.science.interpret_world import make_tokens, make_units, token, write_artefacts

ALIVE = {100: 100, 1000: 1000, 10_000: 10_000}


def test_the_families_are_large_and_hold_no_word_twice():
    concepts, files = read_concepts()
    families = pl.DataFrame([vars(concept) for concept in concepts])
    assert (families.group_by("family").len()["len"] >= 100).sum() >= 4 and len(files) == families["family"].n_unique()
    assert families.unique().height == families.height
    assert all(word == word.lower() and word.isalpha() and len(word) >= 3 for word in families["word"])


def test_mentions_are_whole_words_and_the_planted_unit_is_found():
    tokens = make_tokens(200)
    mentions = Mentions.find(tokens, [Concept("sea", "island"), Concept("law", "judge"), Concept("sea", "whale")])
    where = {word: (tokens.token_id_N == token(f" {word}")) & tokens.kept_N for word in ("island", "judge")}
    at = mentions.words.index("island")
    assert np.array_equal(np.isin(mentions.mention_N, np.flatnonzero(mentions.word_M == at)), where["island"])
    assert mentions.count("train")[mentions.words.index("whale")] == 0
    # Unit 0 is noise, unit 1 is the island, unit 2 fires on every second judge and once elsewhere.
    noise = np.random.default_rng(0).random(tokens.n_tokens) < 0.02
    judge = where["judge"] & (np.cumsum(where["judge"]) % 2 == 0)
    units = np.stack([noise & tokens.kept_N, where["island"], judge])

    def activations(split_N: np.ndarray) -> SparseActivations:
        unit, index = np.nonzero(units & split_N)
        return SparseActivations.from_arrays(unit, index, np.ones(len(unit), np.float32), 3)

    split = {"train": activations(tokens.train_N), "held_out": activations(tokens.test_N)}
    whole = best_units([(0, split)], mentions).to_dicts()
    parts = [(i, {name: each.columns(np.array([i])) for name, each in split.items()}) for i in range(3)]
    assert best_units(parts, mentions).to_dicts() == whole
    found = {mentions.words[row["word"]]: row for row in whole}
    assert found["island"]["unit"] == 1 and found["island"]["f1_held_out"] == 1
    n, n_hit = mentions.count("held_out")[mentions.words.index("judge")], split["held_out"].count_U[2]
    assert found["judge"]["unit"] == 2 and found["judge"]["f1_held_out"] == pytest.approx(2 * (n_hit / n) / (1 + n_hit / n))
    # With the words dealt out anew among the mentions, neither is what it was.
    control = {mentions.words[row["word"]]: row for row in best_units([(0, split)], mentions.shuffled(0)).to_dicts()}
    assert control["island"]["f1_held_out"] < 0.9 and np.array_equal(mentions.shuffled(0).count("train"), mentions.count("train"))


def planted(law: bool) -> pl.DataFrame:
    """400 words; presence follows frequency x alive (`law`), or frequency alone."""
    random = np.random.default_rng(0)
    log_frequency, rows = random.uniform(-5, -1, 400), []
    for size, alive in ALIVE.items():
        x = log_frequency + (np.log10(alive) if law else 3)
        present = random.random(400) < 1 / (1 + np.exp(-6 * x))
        rows.append(pl.DataFrame({
            "size": np.full(400, size), "word": [f"w{i}" for i in range(400)], "frequency": 10**log_frequency, "present": present,
            "control_present": np.zeros(400, bool), "direction_present": np.arange(400) < 4,
        }))  # fmt: skip
    return pl.concat(rows)


def test_the_sigmoid_finds_its_middle():
    x = np.random.default_rng(1).uniform(-4, 2, 4000)
    present = np.random.default_rng(2).random(4000) < 1 / (1 + np.exp(-5 * (x + 1.3)))
    half, slope = fit_sigmoid(x, present)
    assert half == pytest.approx(-1.3, abs=0.1) and slope == pytest.approx(5, rel=0.15)
    assert np.isnan(fit_sigmoid(x, np.ones(4000, bool))[0]) and np.isnan(fit_sigmoid(x, ~present)[0])


def test_a_planted_law_is_found_and_presence_without_it_is_not(monkeypatch):
    monkeypatch.setattr("sae_pipeline.resampling.N_RESAMPLES", 40)
    by_law = {(one.measurement, one.size): one for one in completeness_measurements(planted(True), ALIVE, ALIVE, 0, "x")}
    without = {(one.measurement, one.size): one for one in completeness_measurements(planted(False), ALIVE, ALIVE, 0, "x")}
    for size in ALIVE:
        ratio = by_law["half_presence_frequency_ratio", size].value
        assert ratio is not None and ratio < 1.5
    far = without["half_presence_frequency_ratio", 10_000].value
    assert far is not None and far > 5
    spread, other = (each["spread_shrinks_after_rescaling", None].value for each in (by_law, without))
    assert spread is not None and spread > 5 and other is not None and other < 1
    growth, error = by_law["coverage_growth", None].value, by_law["coverage_prediction_error", None].value
    assert growth is not None and growth > 0.15 and error is not None and error < 0.06
    # The stronger null is the control: here the random directions, of which four words have one.
    coverage = by_law["concept_coverage", 100]
    assert coverage.control_value == 0.01 and coverage.control is not None and "random directions" in coverage.control
    assert by_law["concept_coverage_over_shuffled_mentions", 100].control_value == 0
    unscaled = by_law["coverage_prediction_error", None].control_value
    assert unscaled is not None and unscaled > 0.15


def test_the_stage_writes_its_table_and_the_check_finds_another_f1(tmp_path):
    tokens = make_tokens(200)
    folders = write_artefacts(tmp_path / "artefacts", tokens, make_units(tokens))
    stats, work = {9: folders.feature_stats}, tmp_path / "work"
    work.mkdir()
    build_completeness(folders.corpus, folders.activations, stats, Completeness(n_directions=4), work)
    assert schema_check(work, "completeness").passed and (work / "concept_presence.dark.png").is_file()
    rows = pl.read_parquet(work / "concept_presence.parquet")
    # Of all families' words this world has only "and".
    assert rows.filter(pl.col("present").is_not_null())["word"].to_list() == ["and"]
    assert f1_recounted(work, folders.corpus, folders.activations, stats).passed
    rows.with_columns(pl.col("f1_held_out") * 0.5 + 0.1).write_parquet(work / "concept_presence.parquet")
    assert not f1_recounted(work, folders.corpus, folders.activations, stats).passed


def test_a_killed_run_keeps_finished_sizes_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    tokens = make_tokens(200)
    folders = write_artefacts(tmp_path / "artefacts", tokens, make_units(tokens))
    stats = {9: folders.feature_stats, 10: folders.feature_stats}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = []

    def build(work, stop_before: int | None = None):
        def watched(reader, mentions, scored_C, n_matched_F, seed):
            asked.append(seed)
            if seed == stop_before:
                raise KeyboardInterrupt
            return best_directions(reader, mentions, scored_C, n_matched_F, seed)

        monkeypatch.setattr("sae_pipeline.survey.completeness.build.best_directions", watched)
        work.mkdir(exist_ok=True)
        build_completeness(folders.corpus, folders.activations, stats, Completeness(), work)

    build(whole)
    with pytest.raises(KeyboardInterrupt):
        build(killed, stop_before=10)
    asked.clear()
    build(killed)
    assert asked == [10]
    files = {file.name: file.read_bytes() for file in whole.iterdir()}
    assert files == {file.name: file.read_bytes() for file in killed.iterdir()} and "measurements.parquet" in files
