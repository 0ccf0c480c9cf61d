"""What the steering comparison makes of texts and costs, on made-up rows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from sae_pipeline.survey.steering.concepts import read_topics
from sae_pipeline.survey.steering.cost import CAPABILITY_FACTORS, Costs
from sae_pipeline.survey.steering.dose_results import _sweet_spot
from sae_pipeline.survey.steering.mark import measure_mark
from sae_pipeline.survey.steering.methods import (
    BASELINE,
    CLAMP,
    PROMPT_ONLY,
    RANDOM,
    UNSELECTED,
)
from sae_pipeline.survey.steering.results import Comparison
from sae_pipeline.survey.steering.themes import measure_themes
from tests.tiny_steering import N_FEATURES


def said(concept: str | None, method: str, factor: float | None, hits: list[bool], fluent: bool = True) -> list[tuple]:
    """A reporting text per prompt; an unsteered one names islands where it hits."""
    return [
        (place, concept, method, factor, "report", hit if concept else None, fluent, "an island" if hit else "a day")
        for place, hit in enumerate(hits)
    ]


def themes_of(clamp: list[bool], random: list[bool], plain: list[bool], fluent: bool = True):
    topics = [replace(read_topics(1)[0][0], name=name) for name in ("one", "two", "three")]
    rows = said(None, BASELINE, None, plain)
    for topic in topics:
        rows += said(topic.name, CLAMP, 2.0, clamp, fluent) + said(topic.name, RANDOM, 1.0, random)
        rows += said(topic.name, CLAMP, 1.0, [True] * len(clamp))  # of a factor that was not chosen
    names = ("prompt_id", "concept", "control", "factor", "half", "hit", "fluent", "completion")
    texts = pl.DataFrame(rows, schema=dict(zip(names, (pl.Int16, *[pl.String] * 2, pl.Float64, pl.String), strict=False))
        | {"hit": pl.Boolean, "fluent": pl.Boolean, "completion": pl.String}, orient="row")  # fmt: skip
    report = pl.DataFrame([
        {"concept": topic.name, "control": method, "factor": factor}
        for topic in topics for method, factor in ((CLAMP, 2.0), (RANDOM, 1.0))
    ])  # fmt: skip
    return measure_themes(texts, report, topics, 0, {})


def test_three_themes_have_the_interval_of_their_prompts():
    sure = themes_of([True] * 6, [False] * 6, [False] * 6)
    assert (sure.value, sure.low, sure.high, sure.control_value, sure.n_scored) == (3, 3, 3, 0, 3)
    assert (sure.difference, sure.difference_low, sure.difference_high) == (3, 3, 3)
    # 2.5/7 against 0.5/7: steered by two prompts of six, of which a resample may hold none.
    two = themes_of([True, True, *[False] * 4], [False] * 6, [False] * 6)
    assert (two.value, two.low, two.high) == (3, 0, 3)
    assert themes_of([True] * 6, [True] * 6, [False] * 6).value == 0  # no better than the direction
    assert themes_of([True] * 6, [True] * 6, [False] * 6).control_value == 3
    assert themes_of([True] * 6, [False] * 6, [False] * 6, fluent=False).value == 0
    assert themes_of([True] * 6, [True] * 6, [True] * 6).control_value == 0  # the model says it unsteered


def test_the_width_of_the_sweet_spot_has_the_interval_of_its_features():
    n = len(CAPABILITY_FACTORS)
    free, dear = np.full((n, 6), 0.9), np.full((n, 6), 0.5)
    shared = {"size": N_FEATURES, "control": "random"}

    def costs_of(accuracy_KC: np.ndarray) -> Costs:
        """Ten questions that count, and ten that are never answered right and do not count."""
        right_KCQ = np.arange(20) < np.round(10 * accuracy_KC)[:, :, None]
        return Costs(np.arange(20) < 9, 0.0, 2.0, right_KCQ, np.zeros((n, 6)), np.zeros((n, 6)))

    def width(own: np.ndarray, beside: np.ndarray):
        return _sweet_spot("width", costs_of(own), costs_of(beside), np.arange(20) < 10, 0, shared)

    apart = width(free, dear)
    assert (apart.value, apart.low, apart.high, apart.control_value) == (10.0, 10.0, 10.0, 0.0)
    assert (apart.difference, apart.difference_low, apart.difference_high) == (10.0, 10.0, 10.0)
    mixed = free.copy()
    mixed[CAPABILITY_FACTORS.index(5.0), 0] = 0.7  # a sixth of the features loses .2 at 5: more than the .02 on average
    one = width(mixed, mixed)
    assert one.value == 7.0 and one.low == 7.0 and one.high == 10.0
    assert one.difference == 0.0 and one.difference_low == -3.0 and one.difference_high == 3.0


def comparison(scores: dict[str, list[float]], texts: pl.DataFrame | None = None) -> Comparison:
    """Two concepts, `a` and `b`, with a score of each per method."""
    report = pl.concat([
        pl.DataFrame({"concept": ["a", "b"], "control": method, "score": values}) for method, values in scores.items()
    ])  # fmt: skip
    found = [SimpleNamespace(topic=SimpleNamespace(name=name)) for name in ("a", "b")]
    return Comparison(report, pl.DataFrame() if texts is None else texts, found, 2, 1024)  # pyright: ignore[reportArgumentType]


def test_a_selected_feature_is_held_against_the_mean_of_several_that_were_not():
    scores = {CLAMP: [0.5, 0.5], **{name: [0.1 * place, 0.0] for place, name in enumerate(UNSELECTED)}}
    gain = comparison(scores).paired("gain", CLAMP, UNSELECTED, 0, "the mean")
    assert gain.control_value == pytest.approx(np.mean([0.0, 0.1, 0.2, 0.3]) / 2) and gain.difference == pytest.approx(0.425)


def test_the_clamp_is_held_against_every_other_way_over_the_same_concepts():
    scores = {
        CLAMP: [0.2, 0.6], "difference_of_means": [0.2, 0.6], "sae_add": [0.4, 0.8], "probe": [0.1, 0.5], "pca": [0.6, 0.2],
        PROMPT_ONLY: [0.9, 1.0],
    }  # fmt: skip
    found = {each.measurement: each for each in comparison(scores).over_others(0)}
    assert {name: each.control for name, each in found.items()} == {
        "clamp_over_difference_of_means": "difference_of_means", "clamp_over_sae_add": "sae_add", "clamp_over_probe": "probe",
        "clamp_over_pca": "pca", "clamp_over_prompt_only": "prompt_only",
    }  # fmt: skip
    assert {each.value for each in found.values()} == {0.4} and {each.n_scored for each in found.values()} == {2}
    # The same difference on either concept has an interval of no width, whatever the concepts' own scores are.
    for name, by in {"difference_of_means": 0.0, "sae_add": -0.2, "probe": 0.1}.items():
        one = found[f"clamp_over_{name}"]
        assert [one.difference, one.difference_low, one.difference_high] == pytest.approx([by] * 3), name
    pca, prompt = found["clamp_over_pca"], found["clamp_over_prompt_only"]
    assert [pca.difference, pca.difference_low, pca.difference_high] == pytest.approx([0.0, -0.4, 0.4])
    assert [prompt.difference, prompt.difference_low, prompt.difference_high] == pytest.approx([-0.55, -0.7, -0.4])


def test_repetition_at_a_hundred_times_the_maximum_says_what_a_random_direction_does():
    def why(clamp: float, random: float) -> str:
        rows: list[tuple] = [
            ("a", CLAMP, 100.0, clamp),
            ("b", CLAMP, -100.0, clamp),
            ("a", RANDOM, 100.0, random),
            ("b", RANDOM, 100.0, random),
        ]
        rows.append((None, BASELINE, None, 0.0))
        names = ("concept", "control", "factor", "repetition")
        texts = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None).with_columns(prompt=pl.lit("p"))
        plain, direction = comparison({CLAMP: [0.0, 0.0]}, texts).extremes(0)
        assert (plain.value, plain.control_value, direction.control_value) == (clamp, 0.0, random) and plain.why is not None
        return plain.why

    assert "a random direction of the same strength repeats 0.500" in why(0.25, 0.5)
    assert why(0.25, 0.5).endswith("no more than a direction of this strength, as far as the interval tells")
    assert "no more" not in why(0.5, 0.25)


def test_the_mark_is_passed_by_what_names_the_concept_and_not_by_what_the_model_says_unsteered():
    topic = replace(read_topics(1)[0][0], name="one")

    def share(clamp: list[bool], random: list[bool], plain: list[bool]):
        rows = [*said("one", CLAMP, 2.0, clamp), *said("one", RANDOM, 1.0, random), *said(None, BASELINE, None, plain)]
        names = ("prompt_id", "concept", "control", "factor", "half", "hit", "fluent", "completion")
        texts = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None).with_columns(
            cross_entropy=pl.lit(1.0), repetition=pl.lit(0.0)
        )
        report = pl.DataFrame({"concept": ["one"] * 2, "control": [CLAMP, RANDOM], "factor": [2.0, 1.0]})
        found = measure_mark(texts, report, [topic], 0, {"n_attempted": 1})
        return found.value, found.control_value

    every, none = [True] * 12, [False] * 12
    assert share(every, none, none) == (1, 0)
    assert share(every, every, none) == (1, 1)  # a chosen direction does it as well: no result
    assert share(every, none, every) == (0, 0)
