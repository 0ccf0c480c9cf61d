"""Cases of which a corpus gives nothing to look at are not testable, and say why."""

from itertools import product
from types import SimpleNamespace

import numpy as np

from sae_pipeline.survey.cases import python_syntax, zero_shot_chat
from sae_pipeline.survey.cases.counts import Tally
from sae_pipeline.survey.measurement import write_measurements
from sae_pipeline.survey.thresholds import thresholds
from tests.science.planted_cases import planted_world


def test_without_a_source_of_chat_no_feature_counts_as_new_to_it(tmp_path):
    world = planted_world(np.ones((4, 30)), tmp_path)
    object.__setattr__(world, "corpus", SimpleNamespace(source_of_doc=np.array(["talks", "world_factbook"])))
    (row,) = write_measurements(tmp_path, "case_studies", zero_shot_chat.run(world).measurements).to_dicts()
    assert row["status"] == "not_testable" and row["value"] is None and (row["ceiling"], row["ceiling_threshold"]) == (0, 1)
    assert "dialogues" in row["why"]


def test_syntax_without_a_label_of_enough_tokens_is_not_testable(tmp_path, monkeypatch):
    """One token more of one label, and there is a value."""
    n_labels = len(python_syntax.LABELS)
    counts = np.ones((4, n_labels))
    total_L = np.full(n_labels, float(thresholds().syntax_min_tokens - 1))
    monkeypatch.setattr(python_syntax, "python_documents", lambda world, split: [0, 1, 2, 3])
    monkeypatch.setattr(python_syntax, "f1_of_all", lambda *_: (np.ones((n_labels, 30)), np.ones((n_labels, 30)), total_L))
    monkeypatch.setattr(python_syntax, "tally", lambda arms, *_: [Tally(counts, counts, counts) for _ in arms])
    monkeypatch.setattr(python_syntax, "_transfer", lambda *_: [])
    world = planted_world(np.ones((4, 30)), tmp_path)
    few = write_measurements(tmp_path, "case_studies", python_syntax.run(world).measurements)
    assert few["measurement"].to_list() == ["python_syntax_f1", "python_syntax_f1_all_labels"]
    assert set(few["status"]) == {"not_testable"} and few["value"].null_count() == 2
    total_L[3] += 1
    enough = write_measurements(tmp_path, "case_studies", python_syntax.run(world).measurements)
    assert set(enough["status"]) == {"ok"} and set(enough["value"]) == {1.0} and enough.height == 4


def test_the_chance_to_fire_on_several_prompts_is_that_of_all_outcomes():
    silent_IF = np.random.default_rng(0).random((5, 3))
    for n_prompts in (1, 2, 4):
        expected = np.zeros(3)
        for fires in product((False, True), repeat=5):
            if sum(fires) >= n_prompts:
                expected += np.where(np.array(fires)[:, None], 1 - silent_IF, silent_IF).prod(axis=0)
        np.testing.assert_allclose(zero_shot_chat.at_least(n_prompts, silent_IF), expected)
