"""Every invariant holds on a finished study, its control breaks it, and a planted fault is found."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from assets.invariants import samples_recounted
from assets.verdicts import schema_check
from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.gated import Gated
from sae_pipeline.steering.interventions import Intervention
from sae_pipeline.study_survey import Invariants
from sae_pipeline.survey.checklist import read_checklist
from sae_pipeline.survey.invariants.build import build_invariants
from sae_pipeline.survey.invariants.clamp import clamp_error
from sae_pipeline.survey.invariants.examples import samples_inside_their_interval
from sae_pipeline.survey.invariants.loss import loss_gradient_error
from sae_pipeline.survey.invariants.recipe import distinct_documents_per_batch, expected_distinct, schedule_error
from sae_pipeline.survey.invariants.sampling import distance, ranks
from sae_pipeline.survey.invariants.space import scaled_norm_error, stored_activation_error
from sae_pipeline.survey.verdicts import passes

SIZES = (32, 64)
ROWS = (1, 2, 7, 11, 16, 17, 28)
SETTINGS = Invariants(n_tokens=64, n_examples=5, n_clamped=2)


class World:
    """A private copy of the finished study's artefacts, which a test may damage."""

    def __init__(self, finished, folder: Path) -> None:
        for stage in ("corpus", "activations", "sae", "feature_stats"):
            shutil.copytree(finished.store.path(stage), folder / stage)
        self.folder, study = folder, finished.store.study
        self.lm = load_language_model(study.model, study.hook)
        self.corpus, self.saes = folder / "corpus", {size: folder / "sae" / str(size) for size in SIZES}
        self.stats = {size: folder / "feature_stats" / str(size) for size in SIZES}

    @property
    def reader(self) -> ActivationReader:
        return ActivationReader.open(self.folder / "activations")

    @property
    def loaded(self) -> dict[int, SparseAutoencoder]:
        return {size: SparseAutoencoder.load(folder) for size, folder in self.saes.items()}


@pytest.fixture
def world(finished_study, tmp_path):
    return World(finished_study, tmp_path)


@pytest.fixture(scope="module")
def built(finished_study, tmp_path_factory):
    made = World(finished_study, tmp_path_factory.mktemp("world"))
    work = tmp_path_factory.mktemp("work")
    build_invariants(made.corpus, made.folder / "activations", made.saes, made.stats, made.lm, SETTINGS, work)
    return work, {row["measurement"]: row for row in pl.read_parquet(work / "measurements.parquet").to_dicts()}


def test_every_invariant_holds_and_every_control_breaks_it(built):
    work, measured = built
    needs = [need for section in read_checklist() for row in section.rows if row.row in ROWS for need in row.needs]
    assert {need.measurement for need in needs} <= set(measured) and schema_check(work, "invariants").passed
    for need in needs:
        one = measured[need.measurement]
        assert passes(need, one), one
        assert not passes(need, one | {"value": one["control_value"]}), one


def test_the_check_recounts_the_samples(built, world):
    work, _ = built
    assert samples_recounted(work, world.stats).passed
    file = world.stats[32] / "feature_examples.parquet"
    pl.read_parquet(file).with_columns(pl.col("activation") * 3).write_parquet(file)
    assert not samples_recounted(work, world.stats).passed
    share = samples_inside_their_interval(world.stats, 0).value
    assert share is not None and share < 0.9


def test_samples_drawn_uniformly_lie_within_chance_and_a_lean_towards_strong_ones_does_not():
    random = np.random.default_rng(3)
    drawn, leaning = [], []
    for _ in range(300):
        value_N = np.append(random.choice(np.array([0.05, *np.geomspace(0.02, 0.99, 50)], np.float32), 400), np.float32(1))
        interval_N = np.ceil(10 * value_N.astype(np.float64)).astype(int)
        for chosen, shares in ((drawn, np.ones(401)), (leaning, 1 + value_N * 10 - interval_N + 1)):
            at = random.choice(401, 30, replace=False, p=shares / shares.sum())
            chosen.append(ranks(value_N, 1.0, interval_N[at], value_N[at], random))
    own, top = np.concatenate(drawn, axis=1)
    assert len(own) > 5000 and 0 <= own.min() < 0.01 and 0.99 < own.max() <= 1
    assert distance(own) < 1 < distance(np.concatenate(leaning, axis=1)[0]) < distance(top)
    # 40 activations of one interval: the largest is the last of them, and one of 19 in the next has too few beside it.
    value_N = np.append(np.linspace(0.101, 0.199, 40), np.linspace(0.22, 0.29, 19)).astype(np.float32)
    (rank,), (strongest,) = ranks(value_N, 1.0, np.array([2, 3]), value_N[[0, 45]], random)
    assert 0 <= rank < 1 / 40 and 39 / 40 <= strongest < 1


def test_a_wrong_gradient_is_found(world, monkeypatch):
    from sae_pipeline.sae import step

    original = step.Step._store

    def store(self, made, weights):
        made.pull_F = None  # what the penalty says about decoder norms goes missing
        original(self, made, weights)

    monkeypatch.setattr(step.Step, "_store", store)
    sae, x_ND = world.loaded[32], torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    error = loss_gradient_error(sae, x_ND, torch.Generator().manual_seed(0)).value
    assert error is not None and error > 1e-2


def test_another_schedule_is_found_and_an_imported_sae_is_not_held_to_any(world):
    configs = {size: sae.config for size, sae in world.loaded.items()}
    file = world.saes[64] / "history.parquet"
    pl.read_parquet(file).with_columns(pl.col("learning_rate") * 1.001).write_parquet(file)
    assert schedule_error(world.saes, configs).value == pytest.approx(1e-3, rel=1e-6)
    imported = {size: {key: value for key, value in config.items() if key != "n_steps"} for size, config in configs.items()}
    one, other = schedule_error(world.saes, imported), distinct_documents_per_batch(world.reader, imported[32], 4)
    # The rows must read "not testable", and not as a miss.
    assert {(each.value, each.ceiling, each.ceiling_threshold) for each in (one, other)} == {(None, 0.0, 1.0)}


def test_the_gated_penalty_is_held_to_its_schedule(tmp_path):
    gated, step = Gated(2.0, center_share=0.19), np.arange(0, 200, 10)
    rate = 1e-3 * np.minimum(1, (200 - step) / 40)
    config = {"n_steps": 200, "learning_rate": 1e-3, "architecture": "gated", "l1": 2.0, "center_share": 0.19}
    for factor, expected in ((1.0, 0.0), (1.01, 0.01)):
        penalty = [factor * gated.penalty(int(each), 200) for each in step]
        pl.DataFrame({"step": step, "learning_rate": rate, "l1": penalty}).write_parquet(tmp_path / "history.parquet")
        one = schedule_error({64: tmp_path}, {64: config})
        assert one.value == pytest.approx(expected, abs=1e-9) and "of its own" not in (one.why or "")


def test_another_scale_is_found(world):
    file = world.folder / "activations" / "statistics.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(facts | {"scale": 1.1 * facts["scale"]}), encoding="utf-8")
    assert scaled_norm_error(world.reader, 10**6, 0).value == pytest.approx(0.21, abs=1e-3)


def test_a_stored_activation_that_the_model_does_not_give_is_found(world):
    file = world.stats[32] / "feature_examples.parquet"
    pl.read_parquet(file).with_columns(pl.col("activations").list.eval(pl.element() * 1.05)).write_parquet(file)
    measured = stored_activation_error(CorpusReader.open(world.corpus), world.reader, world.lm, world.loaded, world.stats, 6, 0)
    assert measured.value is not None and measured.value > 1e-3 and measured.n_scored == 12


def test_a_clamp_that_moves_too_far_is_found(world, monkeypatch):
    original = Intervention.__call__

    def call(self, r_BTD, ids_BT, offset):
        return r_BTD + 1.01 * (original(self, r_BTD, ids_BT, offset) - r_BTD)

    monkeypatch.setattr(Intervention, "__call__", call)
    measured = clamp_error(CorpusReader.open(world.corpus), world.reader, world.lm, world.loaded, world.stats, 2, 0)
    assert measured.value is not None and measured.value > 1e-3


def test_the_expected_number_of_documents_is_that_of_many_draws():
    n_tokens = torch.tensor([1, 1, 5, 40, 200, 3])
    document = torch.repeat_interleave(torch.arange(6), n_tokens)
    generator = torch.Generator().manual_seed(0)
    draws = [len(document[torch.randperm(250, generator=generator)[:30]].unique()) for _ in range(4000)]
    assert expected_distinct(n_tokens, 30) == pytest.approx(sum(draws) / len(draws), abs=0.05)
    assert expected_distinct(n_tokens, 250) == 6
