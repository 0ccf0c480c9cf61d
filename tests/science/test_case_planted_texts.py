"""Cases that choose a feature on one half of their texts and report it on the other, on features whose worth is known.

Beside the feature that carries a concept stand decoys: some that only the reporting half would choose, some that hold on the
choosing half alone. Numbers are exact: units fire or are silent.
"""

import re
from functools import partial
from pathlib import Path

import pytest

from sae_pipeline.survey.cases import abstract, addition, list_position, selection
from sae_pipeline.survey.cases.case import Found
from sae_pipeline.survey.cases.prompts import load
from sae_pipeline.survey.cases.random_features import SUFFIX
from sae_pipeline.survey.measurement import write_measurements
from tests.science.planted_texts import HIDDEN, N_UNITS, NULL, PlantedModel, strings, text_world

DECOYS, REAL, CHOOSING_ONLY = 0, 10, 20  # first units of each kind


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(selection, "N_RESAMPLES", 40)


def written(found: Found, folder: Path) -> dict[str, dict]:
    """The measurements as the stage writes them, by name."""
    return {row["measurement"]: row for row in write_measurements(folder, "case_studies", found.measurements).to_dicts()}


def units_of(found: Found, control: str) -> list[int]:
    """Which units were chosen, part by part."""
    return [row["unit"] for row in found.chosen if row["control"] == control]


def numbers(row: dict) -> list[float]:
    """Value, control and difference."""
    return [round(row[name], 9) for name in ("value", "control_value", "difference")]


# --- positions in a list

KINDS = load("lists")["kinds"]
N_ITEMS = load("lists")["n_items"]
BOUND = range(3, N_ITEMS)  # positions of which a feature fires on the kinds of one half alone


def in_lists(bound, carried: bool, text: str, start: int, end: int) -> dict[int, float]:
    """Features 10 to 15 fire on one position each, random directions 10 to 15 of half B on the next position, too."""
    at = text[:end].count("\n- ") - 1
    if not text[start:end].strip().isalpha():  # what stands between the items is no item
        return dict.fromkeys(range(HIDDEN + N_ITEMS), 9.0)
    (place,) = (number for number, things in enumerate(KINDS.values()) if any(f"- {thing}\n" in text for thing in things))
    choosing = place % 2 == 0
    axes: dict[int, float] = {}
    for position in range(N_ITEMS):
        here, next_to_it = at == position, at in (position, (position + 1) % N_ITEMS)
        axes[DECOYS + position] = here and not choosing
        if position in bound:
            axes[CHOOSING_ONLY + position] = here and choosing
            axes[REAL + position] = carried and (next_to_it if choosing else here)
        else:
            axes[REAL + position] = here
        axes[NULL + REAL + position] = here if choosing else next_to_it
        axes[HIDDEN + position] = 10.0 * (here if carried or choosing else not here)
    return axes


def lists_run(folder: Path, bound=(), carried: bool = True) -> tuple[Found, dict[str, dict]]:
    model = PlantedModel(strings(load("lists")), partial(in_lists, bound, carried), N_ITEMS)
    found = list_position.run(text_world(model, folder, not_live=range(DECOYS, DECOYS + N_ITEMS)))
    return found, written(found, folder)


def test_a_feature_that_counts_items_is_found_on_other_kinds_of_things(tmp_path):
    found, rows = lists_run(tmp_path)
    assert units_of(found, "none") == units_of(found, "random_direction") == list(range(REAL, REAL + N_ITEMS))
    main, twin = rows["list_position_auroc"], rows["list_position_auroc" + SUFFIX]
    # A direction that fires on two of six positions beats four of five others and ties with one.
    assert numbers(main) == [1.0, 0.9, 0.1] and numbers(twin) == [1.0, 0.5, 0.5]
    assert main["difference_low"] == pytest.approx(0.1) and main["difference_high"] == pytest.approx(0.1)
    n_lists = len(KINDS) * load("lists")["n_lists_per_kind"]
    assert (main["n_scored"], main["n_attempted"]) == (n_lists * N_ITEMS // 2, n_lists * N_ITEMS) == (192, 384)
    assert main["status"] == twin["status"] == "ok" and main["ceiling"] == 1.0
    assert len(found.items) == 384 and all(row["value"] == 1.0 for row in found.items)


def test_a_feature_that_counts_the_items_of_some_kinds_is_chosen_there_and_missed_elsewhere(tmp_path):
    found, rows = lists_run(tmp_path, BOUND)
    assert units_of(found, "none") == [10, 11, 12, 23, 24, 25]
    assert numbers(rows["list_position_auroc"]) == [0.75, 0.9, -0.15]
    # The model carries the positions: a miss, and no excuse.
    assert rows["list_position_auroc"]["status"] == "ok"


def test_positions_that_the_model_does_not_carry_are_not_testable(tmp_path):
    _, rows = lists_run(tmp_path, range(N_ITEMS), carried=False)
    main = rows["list_position_auroc"]
    assert main["status"] == "not_testable" and main["value"] == 0.5 and main["ceiling"] < main["ceiling_threshold"]


# --- functions that add

NAMES = load("functions")["names"]
GOOD, EARLY, DIRECT, LATE, RANDOM = 4, 1, 2, 0, 3


def in_calls(general: bool, copies, solves: bool, text: str, start: int, end: int) -> dict[int, float]:
    """What is active on the calling line of functions that add: of all (4), of direct ones (2), where nothing is chosen (0)."""
    adds, composed, in_call = "a + b" in text, text.count("def") == 2, start >= text.rindex(">>>")
    choosing = NAMES.index(re.findall(r"def (\w+)", text)[0]) % 2 == 0
    axes: dict[int, float] = {EARLY: text[start:end].strip() == "+"}
    if in_call and adds:
        axes |= {LATE: composed or not choosing, NULL + RANDOM: composed or choosing}
        axes |= dict.fromkeys([GOOD, *copies], 1.0) if general else {DIRECT: not composed}
    if end == len(text):
        m, n = (int(number) for number in re.findall(r"\((\d+), (\d+)\)", text)[-1])
        axes[HIDDEN + (m + n if adds or not solves else m * n)] = 1.0
    return axes


def calls_run(folder: Path, general: bool, copies=(), solves: bool = True, not_live=(LATE,)) -> tuple[Found, dict[str, dict]]:
    pushes = {(HIDDEN + digit, str(digit)): 5.0 for digit in range(10)}
    says = partial(in_calls, general, copies, solves)
    model = PlantedModel([*strings(load("functions")), *map(str, range(10))], says, 10, pushes)
    found = addition.run(text_world(model, folder, not_live))
    return found, written(found, folder)


def test_a_feature_of_adding_is_found_and_followed_through_composition(tmp_path):
    found, rows = calls_run(tmp_path, general=True)
    assert units_of(found, "none") == [GOOD] and units_of(found, "random_direction") == [RANDOM]
    whole, composed = rows["addition_function_auroc"], rows["addition_function_auroc_composed"]
    # On half B the direction fires after composed additions alone.
    assert numbers(whole) == [1.0, 0.75, 0.25] and numbers(composed) == [1.0, 1.0, 0.0]
    assert numbers(rows["addition_function_auroc" + SUFFIX]) == [1.0, 0.5, 0.5]
    n_calls = 2 * 2 * 2 * len(NAMES)
    assert [(row["n_scored"], row["n_attempted"]) for row in (whole, composed)] == [(80, n_calls), (40, n_calls)]
    assert whole["status"] == composed["status"] == "ok" and whole["ceiling"] == composed["ceiling"] == 1.0


def test_a_feature_of_direct_addition_alone_says_nothing_of_composed_ones(tmp_path):
    found, rows = calls_run(tmp_path, general=False)
    assert units_of(found, "none") == [DIRECT]
    assert numbers(rows["addition_function_auroc"]) == [0.75, 0.75, 0.0]
    assert numbers(rows["addition_function_auroc_composed"]) == [0.5, 1.0, -0.5]


def test_a_feature_like_all_others_does_not_stand_out_among_them(tmp_path):
    copies = range(REAL, N_UNITS)
    _, rows = calls_run(tmp_path, general=True, copies=copies, not_live=range(GOOD))
    # Live beside it: its copies, and five silent ones that no group with a copy chooses.
    twin = rows["addition_function_auroc_composed" + SUFFIX]
    assert numbers(twin) == [1.0, 1.0, 0.0] and twin["difference_low"] == twin["difference_high"] == 0.0


def test_calls_that_the_model_does_not_execute_are_not_testable(tmp_path):
    """A model that always gives the sum is right after the functions that add, and after no other."""
    _, rows = calls_run(tmp_path, general=True, solves=False)
    for name in ("addition_function_auroc", "addition_function_auroc_composed"):
        row = rows[name]
        assert row["status"] == "not_testable" and row["ceiling"] == 0.5 and row["value"] == 1.0


# --- concrete and abstract

TOPICS = load("abstract")
PLACE = {text: (topic, side, number) for topic, sides in TOPICS.items() for side, texts in sides.items()
         for number, text in enumerate(texts)}  # fmt: skip


def in_topics(n_abstract: list[int], carried: set[int], text: str, start: int, end: int) -> dict[int, float]:
    """Feature 10 + t fires on the instances of topic t and on the first `n_abstract[t]` of its abstract texts."""
    name, side, number = PLACE[text]
    own, is_abstract, axes = list(TOPICS).index(name), side == "abstract", {}
    for topic, n in enumerate(n_abstract):
        here = topic == own
        axes[DECOYS + topic] = here and is_abstract
        axes[REAL + topic] = here and (number < n or not is_abstract)
        axes[NULL + REAL + topic] = here and (topic == 2 or not is_abstract)
        # A topic that is not carried over is, in the abstract, wherever it does not belong.
        axes[HIDDEN + topic] = 10.0 * (here if topic in carried or not is_abstract else not here)
    return axes


def topics_run(folder: Path, n_abstract: list[int], carried: set[int]) -> tuple[Found, dict[str, dict]]:
    model = PlantedModel(strings(TOPICS), partial(in_topics, n_abstract, carried), len(TOPICS))
    found = abstract.run(text_world(model, folder, not_live=range(DECOYS, DECOYS + len(TOPICS))))
    return found, written(found, folder)


def test_topics_are_counted_whose_feature_of_instances_fires_on_talk_about_them(tmp_path):
    """Of eight abstract texts four are an AUROC of .75, which is enough, and three one of .6875."""
    n_abstract = [8, 4, 3] + [0] * (len(TOPICS) - 3)
    found, rows = topics_run(tmp_path, n_abstract, {0, 5})
    assert units_of(found, "none") == [REAL + topic for topic in range(len(TOPICS))]
    reported = [row["score_report"] for row in found.chosen if row["control"] == "none"]
    assert reported == pytest.approx([0.5 + n / 16 for n in n_abstract])
    main, twin = rows["abstract_from_concrete_topics"], rows["abstract_from_concrete_topics" + SUFFIX]
    assert numbers(main) == [2.0, 1.0, 1.0] and numbers(twin) == [2.0, 0.0, 2.0]
    assert main["n_scored"] == main["n_attempted"] == len(TOPICS) and main["status"] == "ok" and main["ceiling"] == 2.0


def test_topics_that_the_model_does_not_carry_over_are_not_testable(tmp_path):
    _, rows = topics_run(tmp_path, [0] * len(TOPICS), {5})
    main = rows["abstract_from_concrete_topics"]
    assert main["status"] == "not_testable" and main["ceiling"] == 1.0 and numbers(main) == [0.0, 1.0, -1.0]
