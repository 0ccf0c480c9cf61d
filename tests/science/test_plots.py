"""Figures: decodable, small enough for Dagster metadata, equal bytes for equal data, and the numbers in them right."""

import io
from collections import Counter
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from PIL import Image

from sae_pipeline.plots.distributions import density_histogram, norm_histogram
from sae_pipeline.plots.figure import DARK, LIGHT, Theme, size_colors
from sae_pipeline.plots.sizes import masked_and_unmasked, metrics_by_size
from sae_pipeline.plots.specificity import chosen_density, score_counts, score_name, specificity_by_interval
from sae_pipeline.plots.steering import dose_curve
from sae_pipeline.plots.training import N_POINTS, _means, training_curves

SIZES = (1024, 4096, 16384)
MAX_BYTES = 40_000


def history() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    steps = np.arange(900)
    return pl.concat(
        pl.DataFrame({
            "size": size, "step": steps, "n_tokens": steps * 2048, "mse": 500 * np.exp(-steps / 90) + 60 + 5 * rng.random(900),
            "l0": 32 + rng.normal(size=900), "explained_variance_batch": 0.8 - 0.7 * np.exp(-steps / 60),
            "dead_fraction": 0.1 * np.exp(-steps / 200),
        })
        for size in SIZES
    )  # fmt: skip


def metrics(explained_variance: float = 0.86) -> pl.DataFrame:
    return pl.DataFrame({
        "size": SIZES, "explained_variance": [0.78, 0.83, explained_variance], "explained_variance_unmasked": [0.98, 0.983, None],
        "l0": [31.8, 32.2, 32.1], "ce_recovered_zero": [0.985, 0.99, 0.992], "ce_recovered_mean": [0.98, 0.986, 0.989],
        "alive_fraction": [1.0, 0.999, 0.985],
    })  # fmt: skip


def features() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    density = np.where(rng.random(5000) < 0.02, 0.0, 10 ** rng.normal(-3, 0.6, 5000))
    return pl.DataFrame({"size": np.repeat(SIZES[:2], 2500), "density": density, "alive": density > 0})


def scores(n: int = 4000) -> pl.DataFrame:
    rng = np.random.default_rng(2)
    return pl.DataFrame({
        "size": rng.choice(SIZES, n), "control": rng.choice(["none", "shuffled", "random_direction", "mlp_neuron"], n),
        "kind": rng.choice(["active", "random"], n), "interval": rng.integers(1, 11, n), "score": rng.integers(0, 4, n),
        "status": rng.choice(["ok", "too_few_examples"], n),
    })  # fmt: skip


def steering(n_features: int = 3) -> pl.DataFrame:
    rows = []
    for feature in range(n_features):
        for control in ("none", "random_feature", "random_direction"):
            for half in ("choose", "report"):
                for factor in (0.0, 0.5, 1.0, 2.0):
                    for metric in ("concept_rate", "fluency"):
                        value = 0.1 + 0.2 * factor * (control == "none")
                        rows.append((feature, control, "clamp", factor, half, metric, value, value - 0.05, value + 0.05))
        rows.append((feature, "baseline", "none", None, "report", "concept_rate", 0.03, 0.0, 0.1))
    names = ["target_feature", "control", "mode", "factor", "half", "metric", "value", "low", "high"]
    return pl.DataFrame(rows, schema=names, orient="row")


def norms(theme: Theme) -> bytes:
    norm_N = np.concatenate([np.random.default_rng(3).lognormal(5, 0.3, 20_000), np.full(60, 25_000.0), [0.0]])
    return norm_histogram(norm_N, norm_N > 474, 474.0, theme)


FIGURES: dict[str, Callable[[Theme], bytes]] = {
    "training": lambda theme: training_curves(history(), theme),
    "one run": lambda theme: training_curves(history().filter(pl.col("size") == 1024).drop("size"), theme),
    "metrics": lambda theme: metrics_by_size(metrics(), theme),
    "masked": lambda theme: masked_and_unmasked(metrics(), theme),
    "density": lambda theme: density_histogram(features(), theme),
    "norms": norms,
    "specificity": lambda theme: specificity_by_interval(scores(), theme),
    "dose": lambda theme: dose_curve(steering(), theme=theme),
    "dose of one feature": lambda theme: dose_curve(steering(1), theme=theme),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_small_png_with_equal_bytes_each_time(name: str):
    light, again = FIGURES[name](LIGHT), FIGURES[name](LIGHT)
    assert light == again
    assert len(light) <= MAX_BYTES
    image = Image.open(io.BytesIO(light)).convert("RGB")
    assert image.width >= 600 and image.getpixel((0, 0)) == (255, 255, 255)
    ink = np.asarray(image.convert("L")) < 200
    assert 0.005 < ink.mean() < 0.7, "an empty or a smudged figure"


@pytest.mark.parametrize("name", ["density", "dose of one feature"])
def test_the_dark_look_is_dark_with_bright_ink(name: str):
    dark = FIGURES[name](DARK)
    image = Image.open(io.BytesIO(dark)).convert("L")
    assert len(dark) <= MAX_BYTES and np.asarray(image)[0, 0] < 40
    assert (np.asarray(image) > 140).mean() > 0.004


def test_other_data_draw_another_figure():
    assert metrics_by_size(metrics(0.86)) != metrics_by_size(metrics(0.6))
    assert specificity_by_interval(scores(4000)) != specificity_by_interval(scores(300))


def test_figures_of_nothing_are_still_figures():
    assert Image.open(io.BytesIO(specificity_by_interval(scores().clear()))).width > 0
    assert Image.open(io.BytesIO(dose_curve(steering().clear()))).width > 0
    assert Image.open(io.BytesIO(density_histogram(features().clear()))).width > 0


def test_score_counts_agree_with_counting_by_hand():
    frame = scores()
    by_hand = Counter(
        (row["size"], row["control"], row["interval"], row["score"])
        for row in frame.to_dicts()
        if row["kind"] == "active" and row["status"] == "ok"
    )
    counted = {(row["size"], row["control"], row["interval"], row["score"]): row["n"] for row in score_counts(frame).to_dicts()}
    assert counted == dict(by_hand)


def test_only_the_reporting_half_is_drawn():
    frame = steering()
    other = frame.with_columns(pl.when(pl.col("half") == "choose").then(0.9).otherwise(pl.col("value")).alias("value"))
    assert dose_curve(frame) == dose_curve(other)


def test_curves_are_means_over_equal_stretches():
    run = pl.DataFrame({"step": range(10_000)})
    means = _means(run)["step"].to_numpy()
    np.testing.assert_allclose(means, np.arange(10_000).reshape(N_POINTS, -1).mean(axis=1))
    assert _means(run.head(7))["step"].to_list() == list(range(7))


def test_larger_sizes_are_stronger_in_colour():
    colors = size_colors(SIZES, LIGHT)
    brightness = [sum(int(colors[size][at : at + 2], 16) for at in (1, 3, 5)) for size in SIZES]
    assert brightness == sorted(brightness, reverse=True)


def test_scores_of_the_proxy_are_labelled_in_the_figure():
    proxy, judged = (scores().with_columns(method=pl.lit(method)) for method in ("proxy", "rubric"))
    assert score_name(proxy) == "score (proxy without an LLM)" and score_name(judged) == "score"
    assert specificity_by_interval(proxy) != specificity_by_interval(judged)


def test_density_of_a_chosen_feature_is_coloured_by_the_shares_of_its_scores(monkeypatch):
    """Bars: share of activations in the interval times ten, times the share of the score among the windows drawn there."""
    from matplotlib.axes import Axes

    drawn: list[tuple[list[float], list[float], str]] = []
    original = Axes.bar

    def bar(self, places, heights, **options):
        drawn.append((list(places), list(heights), options["label"]))
        return original(self, places, heights, **options)

    monkeypatch.setattr(Axes, "bar", bar)
    rows = [(1, 0)] * 3 + [(1, 3)] + [(10, 3)] * 2
    fixed = {"size": 8, "control": "none", "method": "proxy", "kind": "active", "status": "ok"}
    scores = pl.DataFrame([{**fixed, "interval": interval, "score": score} for interval, score in rows])
    intervals = pl.DataFrame({"interval": [1, 5, 10], "n": [80, 10, 10]})
    assert Image.open(io.BytesIO(chosen_density(scores, intervals))).width > 600
    density = {label: heights for _, heights, label in drawn[:4]}
    assert density["0"][0] == pytest.approx(10 * 0.8 * 0.75) and density["3"][0] == pytest.approx(10 * 0.8 * 0.25)
    assert density["3"][9] == pytest.approx(10 * 0.1) and density["3"][4] == 0  # nothing scored there: nothing claimed
