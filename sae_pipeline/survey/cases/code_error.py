"""Code errors (paper, 'Code error feature'): one feature, chosen on Python, tested on Python, C, Scheme and prose."""

from collections.abc import Sequence

import numpy as np

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.survey.cases.case import DIRECTION, FIGURE, Found, World
from sae_pipeline.survey.cases.code_texts import Pair, pair_texts, pairs, prose
from sae_pipeline.survey.cases.prompts import digest
from sae_pipeline.survey.cases.random_features import with_random_features
from sae_pipeline.survey.cases.reading import Reading, Text
from sae_pipeline.survey.cases.selection import (
    Detection,
    aurocs,
    beside_rivals,
    best,
    bootstrap,
    detect,
    probe_auroc,
    tested,
    tested_beside,
)
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.thresholds import thresholds

CASE, N_KEPT = "code_error", 3
LANGUAGES = ("python", "c", "scheme")


def run(world: World) -> Found:
    """Minimal pairs in three languages, and typos in prose."""
    found, sha = Found(), digest("code_errors")
    made = {language: pairs(language) for language in LANGUAGES}
    readings = {language: _read(world, made[language], language) for language in LANGUAGES}
    python = readings["python"]
    positive_I, half_I, group_I = labels(made["python"])
    detection = detect(
        python.features.max_IF, python.null.max_IF, positive_I, half_I == "choose", half_I == "report", group_I, world.seed
    )
    found.add_detection(CASE, "python", detection)
    _runners_up(found, detection)
    # The runners-up are candidates of the clamps: no random features.
    (random_R,) = world.random_rivals([detection.unit], [detection.score_F], best(detection.score_F, N_KEPT)).T
    report_I = half_I == "report"
    reported_R = aurocs(python.features.max_IF[report_I][:, random_R], positive_I[report_I])
    found.add_random(CASE, "python", random_R, detection.score_F, reported_R)
    for language in LANGUAGES:
        found.measurements += _auroc(world, found, language, made[language], readings[language], detection, random_R, sha)
    found.measurements += _typos(world, found, readings["python"], made["python"], detection, random_R, sha)
    return found


def _read(world: World, made: Sequence[Pair], what: str) -> Reading:
    return world.read(texts_of(world.lm, made), f"code errors, {what}")


def texts_of(lm: LanguageModel, made: Sequence[Pair]) -> list[Text]:
    """The items of pairs: clean and buggy in turn."""
    return [text for pair in made for text in pair_texts(lm, pair)]


def labels(made: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(has the error, half, template) of the items: clean and buggy in turn."""
    positive_I = np.tile([False, True], len(made))
    return positive_I, np.repeat([pair.half for pair in made], 2), [pair.template for pair in made for _ in range(2)]


def _runners_up(found: Found, first: Detection) -> None:
    """The next best features of the choosing half: the clamps choose among them, too."""
    for rank, unit in enumerate(best(first.score_F, N_KEPT)[1:], start=2):
        row = {"case_name": CASE, "part": "python", "control": "none", "unit": unit, "rank": rank}
        found.chosen.append(row | {"score_choose": float(first.score_F[unit]), "score_report": None})


def _auroc(
    world: World, found: Found, language: str, made: Sequence[Pair], reading: Reading, detection: Detection,
    random_R: np.ndarray, sha: str,
) -> list[Measurement]:  # fmt: skip
    positive_I, half_I, group_I = labels(made)
    # The feature was chosen on Python: of another language every pair is held out.
    report_I = half_I == "report" if language == "python" else np.ones(len(half_I), bool)
    value_I, null_I = reading.features.max_IF[:, detection.unit], reading.null.max_IF[:, detection.null_unit]
    kept = [group for group, keep in zip(group_I, report_I, strict=True) if keep]
    value, control, difference = tested(value_I[report_I], null_I[report_I], positive_I[report_I], kept, world.seed)
    random_IR = reading.features.max_IF[report_I][:, random_R]
    beside = tested_beside(value_I[report_I], random_IR, positive_I[report_I], kept, world.seed)
    names = [text for pair in made for text in (pair.clean, pair.buggy)]
    found.add_items(CASE, language, names, half_I, positive_I, value_I, null_I)
    main = Measurement(
        f"code_error_auroc_{language}",
        f"AUROC of the feature chosen on Python pairs, {language} code with an error against the same without", value.value,
        int(report_I.sum()), len(half_I), world.size, value.low, value.high, DIRECTION, control, difference.value,
        difference.low, difference.high,
        ceiling_metric="AUROC of a dense probe of the same language, other templates",
        ceiling=probe_auroc(reading.x_ID, positive_I, half_I == "choose", half_I == "report"),
        ceiling_threshold=thresholds().code_error_carried_auroc,
        why=f"{len(set(kept))} templates are resampled, each with all its pairs", files_sha=sha, rows="case_items", figure=FIGURE,
    )  # fmt: skip
    return with_random_features(main, beside)


def _typos(
    world: World, found: Found, python: Reading, made: Sequence[Pair], detection: Detection, random_R: np.ndarray, sha: str
) -> list[Measurement]:
    sentences = prose()
    reading = _read(world, sentences, "prose")
    _, half_I, _ = labels(made)
    code_I, typo_I = np.flatnonzero(half_I == "report")[1::2], np.arange(1, 2 * len(sentences), 2)
    arms = []
    for bank, unit in (("features", detection.unit), ("null", detection.null_unit), *(("features", unit) for unit in random_R)):
        on_code, on_typos = (getattr(each, bank).max_IF[at, unit] > 0 for each, at in ((python, code_I), (reading, typo_I)))
        arms.append(np.concatenate([on_code, on_typos]))
    is_code = np.arange(len(arms[0])) < len(code_I)

    def ratio(fires: np.ndarray, at: np.ndarray) -> float:
        # A unit that never fires on code is taken to fire once: the ratio stays finite, and large.
        code, typos = fires[at][is_code[at]], fires[at][~is_code[at]]
        return float(typos.mean() / max(code.mean(), 1 / len(code)))

    of_code, of_prose = ([pair.template for pair in each] for each in (made, sentences))
    groups = [*(of_code[at // 2] for at in code_I), *of_prose]
    value = bootstrap(groups, lambda at: ratio(arms[0], at), world.seed, is_code)
    difference = bootstrap(groups, lambda at: ratio(arms[0], at) - ratio(arms[1], at), world.seed, is_code)
    beside = beside_rivals(
        lambda at: ratio(arms[0], at), lambda r, at: ratio(arms[2 + r], at), len(random_R), groups, world.seed, is_code
    )
    positive_P, half_P, _ = labels(sentences)
    found.add_items(
        CASE, "prose", [text for pair in sentences for text in (pair.clean, pair.buggy)], half_P, positive_P,
        reading.features.max_IF[:, detection.unit], reading.null.max_IF[:, detection.null_unit],
    )  # fmt: skip
    rates = [float(fires.mean()) for fires in (arms[0][is_code], arms[0][~is_code])]
    main = Measurement(
        "code_error_typo_ratio", "share of prose typos on which the feature fires, over its share of Python errors", value.value,
        len(is_code), len(is_code), world.size, value.low, value.high, DIRECTION, ratio(arms[1], np.arange(len(is_code))),
        difference.value, difference.low, difference.high,
        why=f"fires on {rates[0]:.0%} of the Python errors of the reporting half and {rates[1]:.0%} of all prose typos; "
        f"{len(set(groups))} templates are resampled",
        files_sha=sha, rows="case_items", figure=FIGURE,
    )  # fmt: skip
    return with_random_features(main, beside)
