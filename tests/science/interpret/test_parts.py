"""Parts of the offline scores: bootstrap by feature, detection, embeddings."""

import numpy as np
import pytest

from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.explanation_scores import window_scores
from sae_pipeline.interpret.rules import Rule, RuleIndex
from sae_pipeline.interpret.windows import active_examples, decoys, generator
from sae_pipeline.resampling import paired_difference
from tests.science.interpret_world import CONTEXT, PLANTED, explanation, make_units, token


def test_bootstrap_resamples_features_not_windows() -> None:
    # Two features with many windows each: 400 windows, but only two independent differences, 0 and 1.
    unit = np.repeat([0, 1], 200)
    mean, low, high, n = paired_difference(unit.astype(float), np.zeros(400), unit, seed=0)
    assert (mean, n) == (0.5, 2) and low == 0.0 and high == 1.0
    random = np.random.default_rng(0)
    unit = np.repeat(np.arange(50), 4)
    value = random.normal(1.0, 1.0, 50)[unit]
    mean, low, high, _ = paired_difference(value, np.zeros(200), unit, seed=1)
    expected = 1.96 * value[::4].std(ddof=0) / np.sqrt(50)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.15)


def test_detection_is_half_of_one_plus_hits_minus_false_alarms(index: RuleIndex, embedder: SentenceEmbedder) -> None:
    units, tokens, column = make_units(index.tokens), index.tokens, PLANTED.index("bigram")
    forces = explanation(Rule("token", (token(" forces"),)))
    rows = list(window_scores(index, embedder, units, {column: forces}, seed=3))
    value = {row.metric: row.value for row in rows if row.control == "none"}
    random = generator(3, "detection", units, column)
    examples = active_examples(units, column, 1, random)
    examples += decoys(tokens, units, column, 3, random, quiet_window=True)
    active = set(units.held_out.of(column)[0].tolist())
    seen: dict[bool, list[bool]] = {True: [], False: []}
    for example in examples:
        shown = example.window(CONTEXT)
        positions = range(shown.first, shown.last + 1)
        assert bool(active & set(positions)) == (example.kind == "active")
        seen[example.kind == "active"].append(any(tokens.token_id_N[i] == token(" forces") for i in positions))
    hits, false_alarms = np.mean(seen[True]), np.mean(seen[False])
    assert hits == 1.0 and 0 < false_alarms < 1
    assert value["detection_auroc"] == pytest.approx((1 + hits - false_alarms) / 2)
    assert rows[0].n == len(examples)


def test_embeddings_know_near_from_far_and_are_computed_once(embedder: SentenceEmbedder) -> None:
    parts = [("The court heard the judge and the lawyer. ", "A ship sailed past the island", " while the jury slept.")]
    whole, near = embedder.windows(parts)
    sea = embedder.texts(["ships and islands"])[0]
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1.0, abs=1e-4)
    assert near[0] @ sea > whole[0] @ sea
    again, _ = embedder.windows(parts + parts)
    assert (again == whole).all()
