"""The stage as a whole on the tiny model: tables, controls, resumption, requested features."""

import shutil

import polars as pl
import pytest
import torch

from sae_pipeline.digests import file_digest
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.steering.evals import build_steering_evals
from sae_pipeline.steering.generation import Generator
from sae_pipeline.steering.interventions import Intervention, Push
from sae_pipeline.steering.output_score import Candidate, Reading, fine_scores, rises, says
from sae_pipeline.steering.prompts import excluded_words
from sae_pipeline.study import FolderModel, Hook, Steer
from sae_pipeline.tables.schemas import check
from tests.tiny_steering import N_FEATURES, make_artefacts

STEER = Steer(
    factors=[0, 1, 3], max_new_tokens=5, n_prompts=4, samples_per_prompt=3, choose_samples=2, dose_samples=1, n_controls=3, seed=1
)
TABLES = ("steering_generations", "steering_scores", "steering_features")


@pytest.fixture(scope="module")
def made(tiny_model_folder, tmp_path_factory):
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    return make_artefacts(lm, tmp_path_factory.mktemp("steering") / "tiny")


def build(made, work, steer=STEER, is_largest=True, batch_rows=256):
    work.mkdir(exist_ok=True)
    stages = (made.lm, made.corpus, made.feature_stats, made.sae)
    return build_steering_evals(*stages, steer, 4, N_FEATURES, is_largest, work, batch_rows)


@pytest.fixture(scope="module")
def built(made, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    outcome = build(made, work)
    return outcome, work, {name: pl.read_parquet(work / f"{name}.parquet") for name in TABLES}


def test_tables_hold_to_their_schemas_and_only_they_are_left(built):
    _, work, tables = built
    for name, frame in tables.items():
        check(name, frame)
    assert sorted(path.name for path in work.rglob("*")) == sorted(f"{name}.parquet" for name in TABLES)


def test_every_control_and_both_modes_are_there_on_both_halves(built):
    _, _, tables = built
    generations, scores = tables["steering_generations"], tables["steering_scores"]
    controls = {"none", "baseline", "random_feature", "random_direction", "prompt_only"}
    for half in ("choose", "report"):
        assert set(generations.filter(pl.col("half") == half)["control"]) == controls
        assert set(scores.filter(pl.col("half") == half)["control"]) == controls
    assert set(generations["mode"]) == {"clamp", "add", "none"}
    assert set(scores["target_feature"]) == set(tables["steering_features"]["feature"])
    for feature in tables["steering_features"]["feature"]:
        report = scores.filter((pl.col("target_feature") == feature) & (pl.col("half") == "report") & (pl.col("mode") == "clamp"))
        # Each arm is reported at a factor of its own choice, and the feature's dose curve is complete.
        assert set(report.filter(pl.col("control") == "none")["factor"]) == {0.0, 1.0, 3.0}
        assert not report.filter(pl.col("control") == "random_feature").is_empty()


def test_summary_is_what_the_generations_say(built):
    outcome, _, tables = built
    row = tables["steering_features"].row(0, named=True)
    own = tables["steering_generations"].filter(
        (pl.col("half") == "report") & (pl.col("control") == "none") & (pl.col("mode") == "clamp")
        & (pl.col("feature") == row["feature"]) & (pl.col("factor") == row["best_factor"])
    )  # fmt: skip
    assert len(own) in (4, 6)  # 2 reporting prompts x 2 or 3 samples
    assert row["concept_rate"] == pytest.approx((own["concept_hit"].sum() + 0.5) / (len(own) + 1))
    score = tables["steering_scores"].filter(
        (pl.col("target_feature") == row["feature"]) & (pl.col("half") == "report") & (pl.col("control") == "none")
        & (pl.col("mode") == "clamp") & (pl.col("factor") == row["best_factor"]) & (pl.col("metric") == "concept_rate")
    )  # fmt: skip
    assert score["value"].to_list() == [row["concept_rate"]]
    assert outcome.metadata["n_texts"] == len(tables["steering_generations"])
    assert outcome.metadata["n_generated_tokens"] == tables["steering_generations"]["n_tokens"].sum()


def test_factors_are_chosen_without_the_reporting_half(built):
    _, _, tables = built
    generations = tables["steering_generations"]
    prompts = {half: set(generations.filter(pl.col("half") == half)["prompt_id"]) for half in ("choose", "report")}
    assert prompts == {"choose": {0, 2}, "report": {1, 3}}
    for row in tables["steering_features"].iter_rows(named=True):
        quality = {}
        for factor in (1.0, 3.0):
            rows = generations.filter(
                (pl.col("half") == "choose") & (pl.col("control") == "none") & (pl.col("mode") == "clamp")
                & (pl.col("feature") == row["feature"]) & (pl.col("factor") == factor)
            )  # fmt: skip
            rate, fluent = ((rows[name].sum() + 0.5) / (len(rows) + 1) for name in ("concept_hit", "fluent"))
            quality[factor] = 2 * rate * fluent / (rate + fluent)
        assert row["best_factor"] == max(quality, key=lambda factor: (quality[factor], -factor))


def test_concept_terms_are_topic_words_and_never_words_of_the_prompts(built):
    _, _, tables = built
    terms = [set(row) for row in tables["steering_features"]["concept_terms"]]
    assert any(terms)
    assert all(not each & excluded_words() for each in terms)


def test_a_killed_run_repeats_one_batch_and_ends_with_the_same_bytes(made, built, tmp_path, monkeypatch):
    _, work, _ = built
    original, sizes = Generator._generate, []

    def generate(self, batch, progress):
        if len(sizes) == 5:
            raise KeyboardInterrupt
        sizes.append(len(batch))
        return original(self, batch, progress)

    monkeypatch.setattr(Generator, "_generate", generate)
    with pytest.raises(KeyboardInterrupt):
        build(made, tmp_path / "killed", batch_rows=16)
    parts = sorted((tmp_path / "killed" / "parts").glob("*.parquet"))
    assert len(parts) == 5
    parts[1].write_bytes(parts[2].read_bytes())  # another batch's rows are not taken for its own
    n_kept, redone = sum(sizes) - sizes[1], []
    monkeypatch.setattr(Generator, "_generate", lambda *args: redone.append(len(args[1])) or original(*args))
    build(made, tmp_path / "killed", batch_rows=16)
    whole = {name: pl.read_parquet(work / f"{name}.parquet") for name in TABLES}
    assert sum(redone) == len(whole["steering_generations"]) - n_kept
    for name in TABLES:
        assert pl.read_parquet(tmp_path / "killed" / f"{name}.parquet").equals(whole[name])


def test_running_out_of_memory_halves_the_batch_and_changes_no_text(made, built, tmp_path, monkeypatch):
    _, work, _ = built
    original, sizes = Generator._generate, []

    def small_memory(self, batch, progress):
        sizes.append(len(batch))
        if len(batch) > 40:
            raise torch.OutOfMemoryError
        return original(self, batch, progress)

    monkeypatch.setattr(Generator, "_generate", small_memory)
    build(made, tmp_path / "small", batch_rows=128)
    assert sum(size > 40 for size in sizes) == 4  # choosing and reporting: 128, 64, and from then on 32
    for name in TABLES:
        assert pl.read_parquet(tmp_path / "small" / f"{name}.parquet").equals(pl.read_parquet(work / f"{name}.parquet"))


def test_equal_runs_write_equal_bytes(made, built, tmp_path):
    _, work, _ = built
    build(made, tmp_path / "again")
    for name in TABLES:
        assert file_digest(tmp_path / "again" / f"{name}.parquet") == file_digest(work / f"{name}.parquet")


def test_requested_features_are_steered_and_clamp_alone_on_smaller_sizes(made, tmp_path):
    steer = STEER.model_copy(update={"features": [2, 0]})
    build(made, tmp_path / "work", steer, is_largest=False)
    features = pl.read_parquet(tmp_path / "work" / "steering_features.parquet")
    assert features["feature"].to_list() == [2, 0]
    assert set(features["selected_by"]) == {"requested"}
    assert set(pl.read_parquet(tmp_path / "work" / "steering_scores.parquet")["mode"]) == {"clamp", "none"}


def test_a_feature_that_never_fires_is_refused(made, tmp_path):
    stats = tmp_path / "stats"
    shutil.copytree(made.feature_stats, stats)
    frame = pl.read_parquet(stats / "features.parquet")
    frame.with_columns(max_activation=pl.when(pl.col("feature") == 5).then(0.0).otherwise("max_activation")).write_parquet(
        stats / "features.parquet"
    )
    steer = STEER.model_copy(update={"features": [5]})
    with pytest.raises(UserError, match=r"steer\.features: feature 5 was never active"):
        build_steering_evals(made.lm, made.corpus, stats, made.sae, steer, 4, N_FEATURES, True, tmp_path)


def test_output_score_is_high_for_the_direction_of_a_frequent_token(made):
    from sae_pipeline.sae.autoencoder import SparseAutoencoder

    sae = SparseAutoencoder.load(made.sae)
    token = made.lm.tokenize(" ship", bos=False)[0]
    direction_D = made.lm.unembedding_DV[:, token]
    sae.W_dec_FD[7] = direction_D / direction_D.norm()
    sae.W_dec_FD[8] = -sae.W_dec_FD[7]
    said = says(made.lm, ["ship"])
    assert token in said
    likely, unlikely, weak = (Candidate(*each, said) for each in ((7, 500.0), (8, 500.0), (7, 0.001)))
    readings = [Reading([made.lm.bos_id], made.lm.tokenize(text, bos=False)) for text in ("a few words", "and some more of them")]
    rise_KC, extra_nats_KC = rises(made.lm, sae, [likely, unlikely, weak], readings, [2.0, 1e-6])
    assert rise_KC[0, 1] < 0.01 and abs(rise_KC[0, 2]) < 0.01 and 0.1 < rise_KC[0, 0] <= 1
    assert rise_KC[1].abs().max() < 0.01 and extra_nats_KC[1].abs().max() < 0.2  # still ablated
    # One candidate, one text, one position at a time, through the whole model.
    expected, nats = [], []
    for reading in readings:
        ids_1T = torch.tensor([[*reading.before, *reading.text]])
        edit = Intervention(sae, [[Push(1000.0, "clamp", 7)]], sae.config["threshold_norm"])
        with torch.no_grad():
            clean_TV = made.lm.model(ids_1T).logits[0].softmax(-1)
            with made.lm.edited(edit):
                steered_TV = made.lm.model(ids_1T).logits[0].softmax(-1)
        places = range(1, ids_1T.shape[1])
        expected.append(sum(float(steered_TV[t, id] - clean_TV[t, id]) for t in places for id in said) / len(places))
        targets = [(t, int(ids_1T[0, t + 1])) for t in places[:-1]]
        nats.append(sum(float((clean_TV[t, id] / steered_TV[t, id]).log()) for t, id in targets) / len(targets))
    assert float(rise_KC[0, 0]) == pytest.approx(sum(expected) / 2, abs=1e-4)
    assert float(extra_nats_KC[0, 0]) == pytest.approx(sum(nats) / 2, rel=1e-3)


def test_a_factor_that_wrecks_the_language_does_not_count(made):
    from sae_pipeline.sae.autoencoder import SparseAutoencoder

    sae = SparseAutoencoder.load(made.sae)
    token = made.lm.tokenize(" ship", bos=False)[0]
    direction_D = made.lm.unembedding_DV[:, token]
    sae.W_dec_FD[7] = direction_D / direction_D.norm()
    gentle, brutal = fine_scores(made.lm, sae, [Candidate(7, maximum, [token]) for maximum in (0.5, 5000.0)])
    assert gentle > 0
    assert brutal == 0.0
