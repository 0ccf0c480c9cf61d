"""Our contenders of every suite run at tiny shapes, agree where they must, and need no more packages than the peers' have."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bench import contenders, dashboards, harvests, rounds, shuffles
from bench.matched import Matched
from bench.quality import runs
from bench.setting import SHAPES, Shape, Spec, data_file
from sae_pipeline.sae.learner import DEAD_AFTER_TOKENS

T = SHAPES["T"]
# What the peers' environment `trainers` holds for certain; transformers come on use, with the harvest alone.
SCRIPT = """
import sys
class Refuses:
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root not in {"bench", "sae_pipeline", "torch", "numpy", "safetensors"} and root in NOT_OURS:
            raise ImportError(f"{name} is not in the peers' environment")
from importlib.metadata import packages_distributions
NOT_OURS = {"pydantic", "polars", "pyarrow", "pandera", "duckdb", "dagster", "yaml", "matplotlib", "transformers", "sklearn"}
assert NOT_OURS & set(packages_distributions())
sys.meta_path.insert(0, Refuses())
import bench.worker
import bench.serve
import bench.stores, bench.passes, bench.queries, bench.dashboards, bench.shuffles, bench.matched, bench.peers, bench.harvests
import sae_pipeline.language_model.model
assert bench.serve.find("ours") and bench.serve.find("our shards") and bench.serve.find("six SAEs")
"""


@pytest.fixture
def x_ND(tmp_path):
    return np.load(data_file(tmp_path, T))


@pytest.fixture
def small_models(monkeypatch):
    monkeypatch.setattr(harvests, "GPT2", {"n_layer": 4, "n_embd": 64, "n_head": 2, "vocab_size": 96, "n_positions": 32})
    smol = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    monkeypatch.setattr(harvests, "SMOL", smol | {"num_key_value_heads": 1, "vocab_size": 96})
    for name, value in (("AFTER_BLOCK", 1), ("CONTEXT", 32), ("SMOL_AFTER_BLOCK", 1), ("SMOL_CONTEXT", 32)):
        monkeypatch.setattr(harvests, name, value)


def test_contenders_import_no_more_than_the_peers_environment_has():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=rounds.ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka", "relu_l1", "gated", "jumprelu"])
def test_our_step_learns_in_every_architecture(x_ND, architecture):
    spec = Spec("ours", T, architecture=architecture, learning_rate=1e-3, target_l0=40 if "l1" in architecture else None)
    contender = contenders.Ours(spec, x_ND)
    batch_ND = torch.from_numpy(x_ND[: T.batch])
    before = contender.mse(batch_ND)
    for _ in range(5):
        contender.step(batch_ND)
    assert contender.mse(batch_ND) < before


def test_the_sparse_and_the_plain_dense_form_compute_the_same(x_ND):
    common = {"architecture": "relu_l1", "target_l0": 40, "learning_rate": 1e-3}
    made = [contenders.Ours(Spec("ours", T, **common, options={"form": form}), x_ND) for form in ("sparse", "dense")]
    batch_ND = torch.from_numpy(x_ND[: T.batch])
    for contender in made:
        for _ in range(3):
            contender.step(batch_ND)
    assert [contender.learner.step.was_dense for contender in made] == [False, True]
    assert made[0].mse(batch_ND) == pytest.approx(made[1].mse(batch_ND), rel=1e-4)


def test_features_that_count_as_dead_learn_from_the_auxiliary_loss(x_ND):
    one, other = (contenders.Ours(Spec("ours", T, options=options), x_ND) for options in (None, {"dead": 0.05}))
    batch_ND = torch.from_numpy(x_ND[: T.batch])
    for contender in (one, other):
        contender.step(batch_ND)
    moved_F = (one.learner.parameters.W_dec_FD - other.learner.parameters.W_dec_FD).abs().amax(1) > 1e-6
    assert moved_F[:51].float().mean() > 0.9 > 0.5 > moved_F[51:].float().mean()


def test_a_peers_rules_keep_decoder_rows_at_norm_one(x_ND):
    contender = Matched(Spec("ours under a peer's rules", T, options={"unit_rows": True, "loss": "fvu", "clips": False}), x_ND)
    for _ in range(3):
        contender.step(torch.from_numpy(x_ND[: T.batch]))
    norm_F = contender.learner.parameters.W_dec_FD.detach().norm(dim=1)
    torch.testing.assert_close(norm_F, torch.ones_like(norm_F))


def test_both_harvests_of_the_same_weights_read_the_same(small_models, x_ND):
    spec = Spec("harvest", Shape("tiny", 64, 1, 1, 64))
    ours, full = harvests.TruncatedForward(spec, x_ND), harvests.FullForward(spec, x_ND)
    ours.step(torch.empty(0))
    assert ours.mse(torch.empty(0)) == pytest.approx(full.mse(torch.empty(0)), rel=1e-5)
    # Another block would have been noticed.
    full._model.transformer.h[1].mlp.c_proj.weight.data *= 1.01
    assert ours.mse(torch.empty(0)) != pytest.approx(full.mse(torch.empty(0)), rel=1e-4)


def test_six_saes_learn_the_same_from_one_stream_as_alone(small_models, x_ND):
    errors = []
    for shared in (True, False):
        spec = Spec("six SAEs", Shape("six", 64, 128, 32, 64), "bfloat16", options={"largest": 128, "shared": shared})
        six = harvests.SixFromOne(spec, x_ND[:, :64])
        errors.append([six.mse(torch.empty(0))])
        for _ in range(3):
            six.step(torch.empty(0))
        errors[-1].append(six.mse(torch.empty(0)))
    assert errors[0] == errors[1] and errors[0][1] < errors[0][0]


def test_the_ring_serves_rows_that_it_was_given(x_ND):
    ring = shuffles.Ring(Spec("our ring", T, options={"window": 2048}), x_ND)
    for _ in range(20):
        ring.step(torch.empty(0))
    assert ring.mse(torch.empty(0)) == 1.0
    assert shuffles.share_given(torch.from_numpy(x_ND[:4] * np.array([[1], [1], [2], [1]], np.float32)), x_ND) == 0.75


def test_our_pages_are_those_of_the_dense_latents(tmp_path, monkeypatch, x_ND):
    monkeypatch.setattr(dashboards.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(dashboards, "VOCABULARY", 300)
    shape = Shape("pages", 64, 1024, 8, 4096)
    pages = dashboards.OurPages(Spec("our pages", shape), x_ND)
    for _ in range(dashboards.N_STEPS):
        pages.step(torch.empty(0))
    z_NF = torch.from_numpy(x_ND) @ torch.from_numpy(dashboards.initial_decoder(shape, 1)).T
    top = z_NF.topk(8, dim=1)
    f_NF = torch.zeros_like(z_NF).scatter_(1, top.indices, top.values.relu())[:, : dashboards.STEP_FEATURES]
    expected = dashboards._check((f_NF > 0).float().mean(0).numpy(), f_NF.max(0).values.numpy())
    assert pages.mse(torch.empty(0)) == pytest.approx(expected, rel=1e-3)


def test_every_side_has_our_window_for_dead_features():
    assert runs.DEAD_AFTER_TOKENS == DEAD_AFTER_TOKENS and runs.settings()["dead_after_tokens"] == DEAD_AFTER_TOKENS


def test_a_contender_that_talks_much_does_not_stop(tmp_path):
    worker = rounds.Worker(Spec("ours", T), data_file(tmp_path, T), str(tmp_path / "python"), "")
    (tmp_path / "python").write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x >&2\necho '{}'\nread end\n")
    (tmp_path / "python").chmod(0o755)
    with worker:
        assert worker.ready == {}


def test_a_contender_that_dies_is_quoted(tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\necho no such peer >&2\n")
    (tmp_path / "python").chmod(0o755)
    with (
        rounds.Worker(Spec("ours", T), data_file(tmp_path, T), str(tmp_path / "python"), "") as worker,
        pytest.raises(RuntimeError, match="no such peer"),
    ):
        worker._read()
