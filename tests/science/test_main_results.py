"""Intervals over documents of what the main run measured: planted sums, and a resampling written out."""

import numpy as np
import polars as pl
import pytest

from sae_pipeline.survey.main_results import CHAT, PROSE, RATIOS, _chat, _explanations, _metrics, document_interval

N = 40


def documents(seed: int = 0, **columns) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    n_tokens = random.integers(5, 50, N)
    made = {
        "size": np.full(N, 64), "doc_id": np.arange(N), "source": [CHAT, PROSE] * (N // 2), "n_tokens": n_tokens,
        "n_active": 3 * n_tokens, "error": n_tokens * random.uniform(0.5, 1.5, N), "variation": 10.0 * n_tokens,
        "variation_of_source": 10.0 * n_tokens, "n_tokens_spliced": n_tokens, "ce_clean": 2.0 * n_tokens,
        "ce_spliced": 2.5 * n_tokens, "ce_zero": 7.0 * n_tokens, "ce_mean": 6.0 * n_tokens,
    }  # fmt: skip
    return pl.DataFrame(made | columns)


def by_hand(part: pl.DataFrame, seed: int) -> tuple[float, float]:
    random, found = np.random.default_rng(seed), []
    error, variation = part["error"].to_list(), part["variation"].to_list()
    for _ in range(2000):
        drawn = [int(random.integers(len(part))) for _ in range(len(part))]
        found.append(1 - sum(error[i] for i in drawn) / sum(variation[i] for i in drawn))
    found.sort()
    return found[49], found[1949]


def test_what_is_the_same_in_every_document_has_no_width_and_what_varies_has_that_of_a_plain_bootstrap():
    part = documents()
    for name, value in (("l0", 3.0), ("ce_recovered_zero", 0.9), ("ce_recovered_mean", 0.875)):
        assert document_interval(part, RATIOS[name]) == pytest.approx((value, value))
    low, high = document_interval(part, RATIOS["explained_variance"])
    assert low is not None and high is not None and 0.005 < high - low < 0.05
    assert (low, high) == pytest.approx(by_hand(part, 5), abs=0.15 * (high - low))
    rare = document_interval(part.with_columns(ce_zero=pl.col("ce_clean")), RATIOS["ce_recovered_zero"])
    assert rare == (None, None)  # ablation that does no harm says nothing, in any resample


def test_every_metric_carries_its_interval():
    part = documents()
    total = part.drop("source").sum().row(0, named=True)
    row = {
        "size": 64, "n_features": 64, "n_tokens_held_out": total["n_tokens"], "n_tokens_spliced": total["n_tokens_spliced"],
        "explained_variance": 1 - total["error"] / total["variation"], "l0": 3.0, "dead_fraction": 0.25, "ce_recovered_zero": 0.9,
        "ce_recovered_mean": None,
    }  # fmt: skip
    found = {one.measurement: one for one in _metrics(pl.DataFrame([row]), part)}
    one = found["explained_variance"]
    assert one.low is not None and one.high is not None and one.value is not None and one.low < one.value < one.high
    dead = found["dead_fraction"]
    spread = 1.96 * np.sqrt(0.25 * 0.75 / 64)  # a binomial share
    assert (dead.low, dead.high) == (pytest.approx(0.25 - spread, abs=0.03), pytest.approx(0.25 + spread, abs=0.03))
    missing = found["ce_recovered_mean"]
    assert (missing.low, missing.high, missing.status, missing.n_scored) == (None, None, "too_few_examples", 0)


def test_chat_minus_prose_is_resampled_within_both():
    n_tokens = np.full(N, 10)
    error = np.where(np.arange(N) % 2 == 0, 30.0, 20.0)  # chat .7, prose .8 in every document
    part = documents(n_tokens=n_tokens, error=error, variation_of_source=np.full(N, 100.0))
    sources = pl.DataFrame({
        "size": [64, 64], "source": [CHAT, PROSE], "n_tokens": [200, 200], "explained_variance": [0.7, 0.8]
    })  # fmt: skip
    (one,) = _chat(sources, part)
    assert one.value == pytest.approx(-0.1) and (one.low, one.high) == (pytest.approx(-0.1), pytest.approx(-0.1))
    (other,) = _chat(sources.with_columns(source=pl.Series(["a", "b"])), part)
    assert other.status == "too_few_examples" and other.low is None
    assert (other.ceiling, other.ceiling_threshold) == (0, 2)


def test_rules_of_features_stand_beside_those_of_neurons_and_of_random_directions():
    f1 = {"none": 0.6, "mlp_neuron": 0.2, "random_direction": 0.5}
    n = 20
    scores = pl.concat([
        pl.DataFrame({
            "size": np.full(n, 64), "unit_id": np.arange(n), "method": "token-stats", "scorer": "rule", "control": control,
            "metric": "rule_f1", "value": value + np.linspace(-0.05, 0.05, n),
        })
        for control, value in f1.items()
    ])  # fmt: skip
    found = {one.measurement: one for one in _explanations(scores)}
    for name, control in (("neurons", 0.2), ("random_directions", 0.5)):
        one = found[f"rule_f1_over_{name}"]
        assert (one.size, one.value, one.control_value) == (64, pytest.approx(0.6), pytest.approx(control))
        assert one.difference_low == pytest.approx(0.6 - control, abs=0.03) and one.n_control == n
