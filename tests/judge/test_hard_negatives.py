"""What detection and fuzzing show: every negative is one, and the hard ones are as hard as they say."""

import numpy as np
import pytest

from sae_pipeline.interpret.hard_negatives import NearestWindows
from sae_pipeline.interpret.judged_windows import NEGATIVES, Question, Shown, detection_windows, fuzzing_windows, judged_rows
from sae_pipeline.interpret.protocols import Explanation, Score, ScoredWindow
from sae_pipeline.interpret.proxy import parts_of
from sae_pipeline.interpret.windows import REACH, Example, active_examples
from tests.science.interpret_world import CONTEXT, PLANTED, make_units, planted_masks, token


@pytest.fixture(scope="module")
def world(index, embedder):
    units = make_units(index.tokens)
    return index, units, NearestWindows(index, embedder), planted_masks(index.tokens)


def test_the_nearest_windows_are_silent_and_no_silent_one_is_nearer(world, embedder):
    index, units, nearest, masks = world
    column = PLANTED.index("bigram")
    active = active_examples(units, column, 1, np.random.default_rng(0))
    found = nearest.nearest(units, column, active, 4)
    assert len(found) == 4 and {each.kind for each in found} == {"nearest_inactive"}

    def vector(at: int) -> np.ndarray:
        return embedder.windows([parts_of(index, Example(0, "random", at).window(CONTEXT))])[0][0]

    centre = np.mean([vector(each.token_index) for each in active], axis=0)
    cosine = {}
    for at in np.flatnonzero(index.tokens.test_N).tolist():  # the world has fewer tokens than the pool: all are in it
        if not masks["bigram"][max(at - REACH, 0) : at + REACH + 1].any():
            cosine[at] = float(vector(at) @ centre)
    best = sorted(cosine.values(), reverse=True)[3]
    assert all(cosine[each.token_index] >= best - 1e-5 for each in found)


def test_every_window_of_detection_and_fuzzing_is_what_its_kind_says(world):
    index, units, nearest, masks = world
    column = PLANTED.index("token")
    mask, ids = masks["token"], index.tokens.token_id_N
    detection = detection_windows(index, units, column, nearest, seed=0)
    for window, kind in zip(detection.windows, detection.kind, strict=True):
        assert mask[window.first : window.last + 1].any() == (kind == "active")
    fuzzing = fuzzing_windows(index, units, column, nearest, seed=0)
    for window, kind in zip(fuzzing.windows, fuzzing.kind, strict=True):
        assert mask[window.token_index] == (kind == "active")
        assert mask[window.first : window.last + 1].any() == (kind in ("active", "random"))  # misplaced: the same text
    assert {"active", "random", "nearest_inactive"} <= set(fuzzing.kind) and {"random", "nearest_inactive"} <= set(detection.kind)
    # The token feature is active wherever its token is; one that is not always active has the same token as a negative.
    noise = fuzzing_windows(index, units, PLANTED.index("noise"), nearest, seed=0)
    same = [window for window, kind in zip(noise.windows, noise.kind, strict=True) if kind == "same_token_inactive"]
    assert same and len({ids[window.token_index] for window in same}) == 1 and not masks["noise"][same[0].token_index]
    assert token(" island") not in {
        ids[w.token_index] for w, kind in zip(fuzzing.windows, fuzzing.kind, strict=True) if kind != "active"
    }


def test_unreadable_answers_are_counted_and_never_a_zero(world):
    """AUROC over the answered windows alone, by brute force, for all negatives and for each kind of them."""
    _, units, _, _ = world
    kinds = ("active",) * 6 + ("random",) * 3 + ("same_token_inactive",) * 3 + ("nearest_inactive",) * 3
    sure = [3, 3, 2, 1, None, 3, 0, 0, 1, 3, 2, 3, 0, None, 1]
    shown = Shown(tuple(ScoredWindow(i, i, i) for i in range(len(kinds))), kinds)
    explanation = Explanation("sae_feature", 0, "llm-v1", "x", "token", None, "ok", 9)
    scores = [Score(value, "ok" if value is not None else "refusal", None) for value in sure]
    rows = {
        row.metric: row for row in judged_rows("detection", Question(units, 0, "none", explanation, shown), scores, "m", False)
    }

    def auroc(negatives: tuple[str, ...]) -> float:
        yes = [s for s, kind in zip(sure, kinds, strict=True) if kind == "active" and s is not None]
        no = [s for s, kind in zip(sure, kinds, strict=True) if kind in negatives and s is not None]
        return float(np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no]))

    assert rows["judge_detection_auroc"].value == pytest.approx(auroc(NEGATIVES)) and rows["judge_detection_auroc"].n == 13
    for kind in NEGATIVES[:2]:
        assert rows[f"judge_detection_auroc_{kind}"].value == pytest.approx(auroc((kind,)))
    few = rows["judge_detection_auroc_nearest_inactive"]  # two answers are too few: a status, not a number
    assert few.value is None and few.status == "refusal"
    assert rows["judge_detection_balanced_accuracy"].value == pytest.approx(0.5 * (4 / 5 + 5 / 8))
    assert rows["judge_detection_answered"].value == pytest.approx(13 / 15)
