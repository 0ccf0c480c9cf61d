"""The numbers that decide: as they were when results were first seen, in one file, and nowhere in the code."""

import ast
from pathlib import Path

import pytest

from sae_pipeline.steering import fluency, scores
from sae_pipeline.survey import checklist
from sae_pipeline.survey.thresholds import read_thresholds, thresholds

SURVEY = Path(checklist.__file__).parent
AS_THEY_WERE = {
    "on_self": 0.5, "on_other": 0.0, "still_on_self": 0.25, "still_on_other": 0.125, "abstract_auroc": 0.75,
    "abstract_carried_auroc": 0.65, "expects_error": 0.75, "toy_f1": 0.6, "writes_safe": 0.5, "code_error_carried_auroc": 0.65,
    "list_position_carried_auroc": 0.75, "syntax_min_tokens": 50, "keeps_secret": 0.5, "multilingual_carried": 0.25,
    "executes_calls": 0.6, "says_yes_wrongly": 0.5, "found_auroc": 0.75, "carried_auroc": 0.75, "safety_families": 5,
    "known_word_f1": 0.6, "known_word_min_tokens": 20, "known_words_needed": 10, "probe_sets_needed": 4, "theme_ratio": 3.0,
    "theme_fluent": 0.5, "monotone": 0.8, "max_drop": 0.02, "low_correlation": 0.3, "max_error_rise": 0.05, "topic_share": 0.2,
    "among_likeliest": 5, "prompts_needed": 10, "refused_needed": 0.3, "recovered_cosine": 0.9,
    # Until then constants of their modules.
    "abstract_topics_needed": 2, "chat_prompts": 2, "known_word_places": 10, "probe_min_tokens": 100, "answers_right": 0.5,
    "steered_concepts_needed": 2, "clear_min_activations": 1000, "recall_min_texts": 5, "neighbour_anchors_needed": 10,
    "present_f1": 0.5, "present_words_needed": 2,
    # Added with a test of what chance gives.
    "uniform_ks": 1.95, "uniform_min_activations": 20,
}  # fmt: skip


def test_the_values_are_what_they_were_and_each_says_what_it_is_for():
    assert vars(thresholds()) == AS_THEY_WERE
    assert all(set(entry) == {"value", "row", "what"} and 1 <= entry["row"] <= 72 for entry in read_thresholds().values())


def test_every_value_is_read_by_the_code():
    code = "".join(file.read_text(encoding="utf-8") for file in SURVEY.rglob("*.py"))
    assert [name for name in AS_THEY_WERE if f"thresholds().{name}" not in code] == []


def test_another_value_changes_the_digest_of_every_verdict(tmp_path, monkeypatch: pytest.MonkeyPatch):
    before, changed = checklist.checklist_sha(), tmp_path / "thresholds.yaml"
    changed.write_text(checklist.THRESHOLDS.read_text(encoding="utf-8").replace("value: 0.6,", "value: 0.59,", 1))
    monkeypatch.setattr(checklist, "THRESHOLDS", changed)
    assert checklist.checklist_sha() != before


def test_the_marks_of_the_main_run_are_those_that_the_file_names():
    said = read_file("thresholds.yaml")
    for module, names in (
        (scores, ("MIN_RATIO", "MIN_DIFFERENCE", "MIN_TEXTS")),
        (fluency, ("MAX_EXTRA_NATS", "MAX_EXTRA_REPETITION")),
    ):
        for name in names:
            assert f"{name} {getattr(module, name):g} " in said, name


def read_file(name: str) -> str:
    """A file of the survey as running text, without the comment signs of its lines."""
    return " ".join(line.removeprefix("# ") for line in (SURVEY / name).read_text(encoding="utf-8").splitlines())


def test_no_ceiling_and_no_count_is_a_constant_of_a_module():
    """As far as a program can see: neither what a measurement names as its ceiling's threshold nor how many examples it needs is
    a capital name or a number. One thing that must be there at all, and the points of a law, stay where they are."""
    found = []
    for file in SURVEY.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "ceiling_threshold":
                asked, allowed = node.value, (1,)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "too_few":
                asked, allowed = node.args[2], (1, 2, 3)
            else:
                continue
            for each in ast.walk(asked):
                if isinstance(each, ast.Name) and each.id.isupper() and each.id != "N_CHOSEN":
                    found.append(f"{file.name}: {each.id}")
                if isinstance(each, ast.Constant) and each.value not in allowed:
                    found.append(f"{file.name}: {each.value}")
    assert found == []
