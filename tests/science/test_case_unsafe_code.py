"""Unsafe code clamped in a linear model: the shift of the log-odds is the push of the feature times its new value, by hand."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sae_pipeline.survey.cases import unsafe_code
from sae_pipeline.survey.cases.clamp_case import Clamped, ClampWorld
from sae_pipeline.survey.cases.clamping import Clamper
from sae_pipeline.survey.cases.prompts import load
from sae_pipeline.survey.cases.random_features import SUFFIX
from sae_pipeline.survey.measurement import write_measurements
from tests.science.planted_texts import HIDDEN, N_UNITS, NULL, PlantedModel, bank, strings, text_world

TOLD = load("unsafe_code")
UNSAFE, OPPOSITE = 7, 8  # features of unsafe and of safe C
MOVES, FAINT, NOWHERE, SAFE_SIZE, FREES = range(HIDDEN, HIDDEN + 5)
SAYS = (")", " return", " printf", "\n")  # first tokens of the unsafe forms
PUSH, BASE = 0.5, 3.0  # nats per unit of the axes: what a clamp moves, what the prompts say


def in_code(n_safe_sizes: int, n_frees: int, text: str, start: int, end: int) -> dict[int, float]:
    """Faults set off feature 7 and direction 5, sound C feature 8; prompts what the unsteered model prefers."""
    if not text.startswith("#"):
        sound = any(mark in text for mark in ("strncpy", "fgets", "+ 1")) or text.startswith("printf")
        return {OPPOSITE: 1.0} if sound else {UNSAFE: 1.0, NULL + 5: 1.0} if ";" in text else {}
    (place,) = (each for each, name in enumerate(TOLD["functions"]) if f"*{name}(" in text or f"void {name}(" in text)
    is_size = text.endswith(")")
    safe = place < (n_safe_sizes if is_size else n_frees)
    return {SAFE_SIZE if is_size else FREES: (1.0 if safe else -1.0) * (end == len(text))}


def clamped(
    folder: Path, decoders: Mapping[int, int], n_safe_sizes: int = 12, n_frees: int = 3
) -> tuple[Clamped, dict[str, dict]]:
    """The case with two banks of directions: in the first that of unsafe C moves the answer half as much, the second is idle."""
    pushes = {(axis, word): weight for axis, weight in ((MOVES, PUSH), (FAINT, PUSH / 2)) for word in SAYS}
    pushes |= {(SAFE_SIZE, " +"): BASE, (FREES, " free"): BASE, (SAFE_SIZE, ")"): -BASE, (FREES, " return"): -BASE}
    texts = [*strings(TOLD), *strings(load("neutral"))]
    model = PlantedModel(texts, partial(in_code, n_safe_sizes, n_frees), 5, pushes)
    idle = dict.fromkeys(range(N_UNITS), NOWHERE)
    world = text_world(model, folder, decoders=idle | dict(decoders))
    banks = [world.banks.features, bank(model, NULL, idle | {5: FAINT}), bank(model, NULL, idle)]
    maximum_F = np.ones(N_UNITS)
    maximum_F[UNSAFE] = 2.0  # of the feature alone: a direction is clamped as far as the feature of its own number
    found = ClampWorld(world, Clamper(world.lm, banks, maximum_F))
    made = unsafe_code.run(found)
    rows = write_measurements(folder, "case_clamps", made.measurements).to_dicts()
    return made, {row["measurement"]: row for row in rows}


def test_a_feature_of_unsafe_code_that_moves_the_answer_is_found_and_its_push_measured(tmp_path):
    made, rows = clamped(tmp_path, {UNSAFE: MOVES})
    main, twin = rows["unsafe_code_clamped"], rows["unsafe_code_clamped" + SUFFIX]
    # Four maxima of 2 push .5 each for every token of the unsafe form; four maxima of 1 push .25; the idle bank nothing.
    assert main["value"] == pytest.approx(4 * 2 * PUSH, abs=1e-4)
    assert main["control_value"] == pytest.approx((4 * PUSH / 2 + 0) / 2, abs=1e-4)
    assert main["difference_low"] == pytest.approx(4 * 2 * PUSH - 4 * PUSH / 2, abs=1e-4)  # the better of the two rivals
    assert twin["control_value"] == pytest.approx(0.0, abs=1e-4) and twin["difference"] == pytest.approx(4.0, abs=1e-4)
    assert {(row["feature"], row["factor"]) for row in made.doses if row["arm"] == 0} == {(UNSAFE, 4.0)}
    n_functions = len(TOLD["functions"])
    assert (main["n_scored"], main["n_attempted"]) == (n_functions, 2 * n_functions)
    assert main["status"] == "ok" and main["ceiling"] == 15 / 24
    assert "12 of 12 sizes and 3 of 12 frees" in main["why"]
    reported = {re.findall(r"(\w+)\(const", row["text"])[0] for row in made.doses}
    assert reported == set(TOLD["functions"][1::2])


def test_what_moves_the_answer_but_reads_no_fault_is_no_candidate(tmp_path):
    """Only the feature of sound C would move it; that of faults leaves it as it is."""
    _, rows = clamped(tmp_path, {OPPOSITE: MOVES})
    main = rows["unsafe_code_clamped"]
    assert main["value"] == pytest.approx(0.0, abs=1e-4) and main["control_value"] == pytest.approx(0.5, abs=1e-4)
    assert main["status"] == "ok" and main["difference"] == pytest.approx(-0.5, abs=1e-4)


def test_a_model_that_prefers_the_unsafe_form_anyway_is_not_testable(tmp_path):
    _, rows = clamped(tmp_path, {UNSAFE: MOVES}, n_safe_sizes=6, n_frees=5)
    main = rows["unsafe_code_clamped"]
    assert main["status"] == "not_testable" and main["ceiling"] == pytest.approx(11 / 24)
    assert "6 of 12 sizes and 5 of 12 frees" in main["why"]
