"""Correlations against whole columns and a planted neuron; thresholds, chosen features and sensitivity on planted cases."""

import numpy as np
import polars as pl
import pytest
import torch

from assets.features_vs_neurons import UPSTREAM, correlations_recomputed
from assets.verdicts import schema_check
from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.units import Units, mlp_neurons
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study_survey import FeaturesVsNeurons
from sae_pipeline.survey.features_vs_neurons.build import build_features_vs_neurons
from sae_pipeline.survey.features_vs_neurons.chosen import (
    Scored,
    bin_correlation,
    chosen_measurements,
    null_measurements,
    top_mean,
)
from sae_pipeline.survey.features_vs_neurons.clear_nulls import null_units
from sae_pipeline.survey.features_vs_neurons.correlate import Pairs, correlate, correlation_rows, some_blocks
from sae_pipeline.survey.features_vs_neurons.largest import Largest
from sae_pipeline.survey.features_vs_neurons.sensitivity import recall, terms_of
from sae_pipeline.survey.features_vs_neurons.threshold_curve import CURVE, threshold_curve
from sae_pipeline.survey.features_vs_neurons.thresholding import (
    SHARES,
    error_rise,
    largest_share,
    specificity_gain,
    weighted_windows,
)
from sae_pipeline.survey.measurement import Measurement
from tests.science.interpret_world import SEA, make_tokens, token

SIZE = 64
SETTINGS = FeaturesVsNeurons(n_features=40, n_directions=12, n_tokens=1500, n_error_tokens=256, n_windows=40)


@pytest.fixture(scope="module")
def folders(finished_study):
    path = finished_study.store.path
    return {stage: path(stage, None if stage in ("corpus", "activations") else SIZE) for stage in UPSTREAM}


@pytest.fixture(scope="module")
def lm(finished_study):
    study = finished_study.store.study
    return load_language_model(study.model, study.hook)


@pytest.fixture(scope="module")
def built(finished_study, folders, lm, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    build_features_vs_neurons(folders, lm, finished_study.store.study.score, SETTINGS, SIZE, work)
    return work


def test_tables_figure_and_measurements_are_whole(built):
    assert schema_check(built, "features_vs_neurons").passed
    measured = {row["measurement"]: row for row in pl.read_parquet(built / "measurements.parquet").to_dicts()}
    assert set(measured) >= {
        "low_neuron_correlation_share", "low_basis_correlation_share", "chosen_features_top_decile_score",
        "chosen_features_bin_correlation", "chosen_features_top_decile_score_over_random_directions",
        "chosen_features_top_decile_score_over_neurons", "specificity_gain_at_5_percent_error", "sensitivity_on_independent_text",
    }  # fmt: skip
    assert {row["size"] for row in measured.values()} == {SIZE}
    assert measured["low_neuron_correlation_share"]["n_attempted"] == 40
    assert (built / "activation_thresholds.light.png").stat().st_size > 1000
    assert (built / "neuron_correlations.light.png").is_file() and (built / "neuron_correlations.dark.png").is_file()


def test_the_check_finds_other_correlations(built, folders, tmp_path):
    assert correlations_recomputed(built, folders, SETTINGS).passed
    rows = pl.read_parquet(built / "neuron_correlations.parquet")
    rows.with_columns(pl.col("r_dimension") * 0.9).write_parquet(tmp_path / "neuron_correlations.parquet")
    assert not correlations_recomputed(tmp_path, folders, SETTINGS).passed


def test_a_unit_that_is_a_neuron_finds_it_in_its_block(folders, lm):
    corpus, reader = CorpusReader.open(folders["corpus"]), ActivationReader.open(folders["activations"])
    layer, neuron, pairs = 1, 7, {}
    for split in ("train", "held_out"):
        blocks = some_blocks(reader, split, 600, 0)
        keep_BT = reader.reason_BT[blocks] == 0
        token_N = (blocks[:, None] * reader.context + torch.arange(reader.context))[keep_BT]
        value_N = lm.neurons_up_to_hook(torch.from_numpy(corpus.token_ids_BT[blocks.numpy()]))[layer][keep_BT][:, neuron]
        row_P = (value_N > 0).nonzero().squeeze(1)
        pairs[split] = Pairs(token_N, row_P, torch.zeros_like(row_P), value_N[row_P])
    halves, widths = correlate(corpus, reader, lm, pairs, 1)
    row = correlation_rows(halves, widths, np.array([5]), SIZE).row(0, named=True)
    assert (row["layer"], row["neuron"], row["feature"]) == (layer, neuron, 5)
    assert row["r"] > 0.7 and row["r_held_out"] > 0.7
    # The same number from whole columns.
    f_N, u_N = [], []
    for half in pairs.values():
        blocks = (half.token_N // reader.context).unique()
        units_NM = lm.neurons_up_to_hook(torch.from_numpy(corpus.token_ids_BT[blocks.numpy()]))[layer].flatten(0, 1)
        place = torch.searchsorted(blocks, half.token_N // reader.context) * reader.context + half.token_N % reader.context
        u_N.append(units_NM[place, neuron].double())
        f_N.append(torch.zeros(len(half.token_N), dtype=torch.float64).index_put((half.row_P,), half.value_P.double()))
    assert row["r"] == pytest.approx(float(torch.corrcoef(torch.stack([torch.cat(f_N), torch.cat(u_N)]))[0, 1]), abs=1e-6)


def orthogonal_sae() -> SparseAutoencoder:
    """Four features along the axes of four dimensions, active above 0."""
    weights = {
        "W_enc_FD": torch.eye(4), "b_enc_F": torch.zeros(4), "W_dec_FD": torch.eye(4), "b_dec_D": torch.zeros(4),
        "threshold_F": torch.zeros(4), "mean_D": torch.zeros(4),
    }  # fmt: skip
    return SparseAutoencoder(weights, {"architecture": "relu_l1", "n_features": 4, "d_model": 4, "scale": 1.0})


def test_the_threshold_is_the_largest_that_keeps_to_the_error():
    generator = torch.Generator().manual_seed(0)
    r_ND = torch.randn(500, 4, generator=generator)  # negative parts are the error that is always there
    sae, maximum_F = orthogonal_sae(), torch.full((4,), 3.0)
    share = largest_share(sae, r_ND, maximum_F)
    f_ND = r_ND.relu()
    error = (r_ND - f_ND).square().sum()

    def rise(at: float) -> float:
        return float((r_ND - f_ND * (f_ND >= 3.0 * at)).square().sum() / error - 1)

    assert share == max(each for each in SHARES if rise(each) <= 0.05) > 0
    assert error_rise(sae, sae.encode_sparse(r_ND), r_ND, maximum_F, share) == pytest.approx(rise(share), abs=1e-6)


def test_dropping_unspecific_weak_activations_gains_and_dropping_at_random_does_not():
    r_ND = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    random = np.random.default_rng(0)
    share = largest_share(orthogonal_sae(), r_ND, torch.full((4,), 1.5))
    activation = random.uniform(0, 1.5, 160).astype(np.float32)
    # Of every feature 40 windows, of one interval; what lies below the threshold is unspecific.
    scores = pl.DataFrame({
        "feature": np.repeat(np.arange(4), 40).astype(np.int32), "interval": np.ones(160, np.int8), "activation": activation,
        "score": np.where(activation > 1.5 * share, 3, 0),
    })  # fmt: skip
    intervals = pl.DataFrame({"feature": np.arange(4, dtype=np.int32), "interval": np.ones(4, np.int8), "n": [900] * 4})

    def gain(scores: pl.DataFrame) -> Measurement:
        return specificity_gain(weighted_windows(scores, intervals, torch.full((4,), 1.5)), share, 0.04, SIZE, 0)

    gained = gain(scores)
    assert gained.value is not None and gained.difference_low is not None and gained.control_value is not None
    assert gained.value > 0.2 and gained.difference_low > 0 and abs(gained.control_value) < 0.02
    # Where the strength says nothing of the score nothing is gained, and the control does not make it look as if.
    dealt = scores.with_columns(pl.col("score").shuffle(seed=3))
    none = gain(dealt)
    assert none.difference_low is not None and none.difference_low < 0 and abs(none.control_value or 0) < 0.02
    flat = scores.with_columns(score=pl.lit(2))
    assert gain(flat).value == pytest.approx(0)


def test_the_curve_of_thresholds_is_error_and_specificity_at_each():
    r_ND = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    maximum_F = torch.full((4,), 2.0)
    # Two features: windows of activation 0.1, 0.5 and 1.9 that stand for 6, 3 and 1 activations; the second has none above 0.5.
    scores = pl.DataFrame({
        "feature": [0, 0, 0, 1, 1], "interval": [1, 3, 10, 1, 3], "activation": [0.1, 0.5, 1.9, 0.1, 0.5],
        "score": [0, 2, 3, 1, 3],
    }, schema_overrides={"feature": pl.Int32, "interval": pl.Int8, "activation": pl.Float32})  # fmt: skip
    intervals = scores.select("feature", "interval").with_columns(n=pl.Series([6, 3, 1, 6, 3]))
    windows = weighted_windows(scores, intervals, maximum_F)
    rows = {row["share"]: row for row in threshold_curve(orthogonal_sae(), r_ND, maximum_F, windows, 0.12, 4).to_dicts()}
    assert set(rows) == {*CURVE, 0.12} and [share for share, row in rows.items() if row["is_chosen"]] == [0.12]
    before = (rows[0.0][name] for name in ("error_rise", "specificity_gain", "specificity", "n_features"))
    assert tuple(before) == pytest.approx((0, 0, (9 / 10 + 15 / 9) / 2, 2))
    assert rows[0.1]["specificity"] == pytest.approx((9 / 4 + 3) / 2)
    assert (
        rows[0.5]["specificity"] == 3 and rows[0.5]["specificity_gain"] == pytest.approx(3 - 0.9) and rows[0.5]["n_features"] == 1
    )
    for share in (0.0, 0.1, 0.5):
        kept_ND = r_ND.relu() * (r_ND >= 2.0 * share)
        unexplained = (r_ND - kept_ND).square().sum() / (r_ND - r_ND.mean(0)).square().sum()
        assert rows[share]["explained_variance"] == pytest.approx(1 - float(unexplained), abs=1e-6)
    assert rows[0.5]["error_rise"] > rows[0.1]["error_rise"] > 0


def test_scores_that_rise_with_activation_correlate_and_the_wrong_explanation_does_not():
    interval = np.repeat(np.arange(10, 0, -1), 20)
    own = np.where(interval > 6, 3, np.where(interval > 3, 2, 0))
    scored = {4: Scored(interval, own, np.zeros_like(own), np.arange(200) % 17)}
    top, bins = chosen_measurements(scored, SIZE, 0)
    assert top.value == 3 and bins.value is not None and bins.value > 0.9
    assert top.control_value == 0 and top.difference_low == 3 and bins.difference_low is not None and bins.difference_low > 0.5
    every = np.arange(200)
    assert top_mean(scored[4], own, every) == 3
    falling = Scored(interval, own[::-1], own, scored[4].document)
    assert bin_correlation(falling, falling.own, every) < -0.9
    assert next(chosen_measurements({}, SIZE, 0)).status == "too_few_examples"


def test_a_feature_of_one_word_is_found_by_it_and_one_of_every_second_is_half_found():
    tokens = make_tokens(240)
    island = (tokens.token_id_N == token(" island")) & tokens.kept_N
    second = island & (np.cumsum(island) % 2 == 0)

    def activations(where: np.ndarray) -> SparseActivations:
        units, index = np.nonzero(np.stack([island & where, second & where]))
        return SparseActivations.from_arrays(units, index, np.ones(len(units), np.float32), 2)

    units = Units("sae_feature", np.arange(2), activations(tokens.train_N), activations(tokens.test_N), np.arange(2))
    terms = [terms_of(tokens, units, column) for column in (0, 1)]
    assert [[tokens.words[term] for term in each] for each in terms] == [["island"], ["island"]]
    random, nothing = np.random.default_rng(0), np.empty(0, np.int64)
    full, n_texts = recall(tokens, units, 0, terms[0], nothing, random)
    half, _ = recall(tokens, units, 1, terms[1], nothing, random)
    other, _ = recall(tokens, units, 0, np.array([tokens.words.index(SEA[1])]), nothing, random)
    assert full == 1 and n_texts > 10 and 0.4 < half < 1 and other < 1
    # Texts that hold a stored example are not independent.
    shown = units.held_out.of(0)[0]
    assert recall(tokens, units, 0, terms[0], shown, random)[1] == 0


def test_thresholds_of_a_stream_are_those_of_whole_columns_and_hold_no_more_than_twice_what_is_wanted():
    n_tokens, n_active_C = 6000, np.array([1, 40, 300, 5999, 0])
    value_NC = torch.randn(n_tokens, len(n_active_C), generator=torch.Generator().manual_seed(0))
    value_NC[:, 2] = value_NC[:, 2].round(decimals=1)  # ties at every value, the threshold's too
    threshold_C = torch.stack([row.topk(int(n) + 1).values[-1] for row, n in zip(value_NC.T, n_active_C, strict=True)])
    row, column = (value_NC - threshold_C > 0).nonzero(as_tuple=True)
    for n_rows in (17, 1000, n_tokens):
        largest, row_N = Largest(n_active_C), torch.arange(n_tokens)
        for part_NC, part_N in zip(value_NC.split(n_rows), row_N.split(n_rows), strict=True):
            largest.add(part_NC, part_N)
            # Its wanted values, as many again before they are sorted out, and what one part may bring.
            assert largest.n_held <= 2 * int((n_active_C + 1).sum()) + len(n_active_C) * n_rows
        assert torch.equal(largest.finish(), threshold_C)
        found = largest.above()
        assert torch.equal(found[0], row) and torch.equal(found[1], column)
        assert torch.equal(found[2], (value_NC - threshold_C)[row, column])
    short = Largest(np.array([3]))
    short.add(torch.ones(3, 1), torch.arange(3))
    with pytest.raises(ValueError, match="3 values, 4 are wanted"):
        short.finish()


def test_random_directions_and_neurons_are_as_dense_as_they_should_be_whatever_the_parts(folders, monkeypatch):
    reader = ActivationReader.open(folders["activations"])
    n_active_C = np.array([5, 60, 20])
    streamed = list(null_units(reader, n_active_C, 3))
    assert [each.unit for each in streamed] == ["random_direction", "mlp_neuron"]
    assert all(each.train.count_U.tolist() == n_active_C[: len(each.ids)].tolist() for each in streamed)
    # Neurons as the main run makes them, from whole columns.
    whole = mlp_neurons(reader, n_active_C, 3)
    assert np.array_equal(streamed[1].ids, whole.ids)
    for split in ("train", "held_out"):
        ours, theirs = getattr(streamed[1], split), getattr(whole, split)
        assert np.array_equal(ours.token_index, theirs.token_index) and np.allclose(ours.value, theirs.value)
    monkeypatch.setattr("sae_pipeline.survey.features_vs_neurons.clear_nulls.BATCH_TOKENS", 100)
    for one, other in zip(streamed, null_units(reader, n_active_C, 3), strict=True):
        assert np.array_equal(one.held_out.token_index, other.held_out.token_index)


def test_features_no_clearer_than_the_clearest_directions_do_not_beat_them():
    interval = np.repeat(np.arange(10, 0, -1), 20)
    rising = np.where(interval > 6, 3, np.where(interval > 3, 2, 0))
    clear = {4: Scored(interval, rising, rising, np.arange(200) % 17)}
    vague = {0: Scored(interval, np.zeros_like(rising), rising, np.arange(200) % 13)}
    for null, expected in ((clear, 0.0), (vague, 3.0)):
        top, bins = null_measurements(clear, null, "random_directions", 400, SIZE, 0)
        assert top.measurement == "chosen_features_top_decile_score_over_random_directions"
        assert top.value == 3 and top.control_value == 3 - expected and top.difference_low == pytest.approx(expected)
        assert bins.control == "the clearest four of 400 random directions"
    assert next(null_measurements(clear, {}, "neurons", 4, SIZE, 0)).status == "too_few_examples"
