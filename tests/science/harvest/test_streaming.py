"""`activations.source: streaming`: the same numbers as from stored shards, without the shards."""

import json
import signal

import pytest
import torch
from safetensors import safe_open

from resources.compute import Compute
from sae_pipeline import device, interrupt
from sae_pipeline.activations import batch_size, computed
from sae_pipeline.activations.build import build_activations
from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.digests import file_digest
from sae_pipeline.errors import UserError
from sae_pipeline.sae.build import build_sae
from sae_pipeline.study import Sae


@pytest.fixture(scope="module")
def streamed(tiny_study, lm, corpus_folder, harvested, tmp_path_factory):
    folder = tmp_path_factory.mktemp("streamed")
    settings = tiny_study.activations.model_copy(update={"source": "streaming"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae_pipeline.activations.shards.SHARD_TOKENS", 1024)
        build_activations(corpus_folder, lm, settings, tiny_study.metrics, folder, tiny_study.model)
    return folder


def test_mask_statistics_and_baselines_have_the_same_bytes(streamed, harvested):
    names = ("mask.safetensors", "statistics.safetensors", "splice_baselines.parquet", "masked_fraction.parquet")
    assert {name: file_digest(streamed / name) for name in names} == {name: file_digest(harvested[0] / name) for name in names}


def test_no_activation_is_on_disk(streamed):
    files = sorted((streamed / "shards").iterdir())
    assert len(files) > 3
    for path in files:
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == {"norm_BT", "token_ids_BT", "doc_ids_BT", "position_BT"}


def test_whatever_is_read_is_what_a_shard_would_hold(streamed, reader):
    again = ActivationReader.open(streamed)  # loads the model by what was written down
    assert again.is_streamed and not reader.is_streamed and again.n_blocks == reader.n_blocks
    for (one_N, r_ND, n_NM), (other_N, s_ND, m_NM) in zip(
        reader.stream("train", 300, neurons=True), again.stream("train", 300, neurons=True), strict=True
    ):
        assert torch.equal(one_N, other_N) and torch.equal(r_ND, s_ND) and torch.equal(n_NM, m_NM)
    index_N = reader.token_index("held_out")[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(reader.gather(index_N), again.gather(index_N))
    assert torch.equal(reader.document_of_token, again.document_of_token)


def test_reading_in_order_computes_every_shard_once(streamed, lm, monkeypatch):
    calls = []
    compute = computed.ComputedShards._compute
    monkeypatch.setattr(computed.ComputedShards, "_compute", lambda self, ids: calls.append(ids) or compute(self, ids))
    again = ActivationReader.open(streamed, lm)
    for _ in again.stream("train", 100):
        pass
    of_shards = zip(again.shards, again.by_shard(again.token_index("train")), strict=True)
    expected = [shard["token_ids_BT"] for shard, index_N in of_shards if len(index_N)]
    assert len(expected) > 3 and len(calls) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(calls, expected, strict=True))


def test_the_model_is_loaded_where_the_run_computes(streamed, lm, monkeypatch):
    asked = []
    monkeypatch.setattr(device, "_in_use", None)
    monkeypatch.setattr(computed, "load_language_model", lambda model, hook, name: asked.append(name) or lm)
    computed._model.cache_clear()
    with Compute(device="cpu").lease(lambda _: None):
        pass
    assert device.device_in_use() == "cpu"
    device.use("cuda:7")
    _ = ActivationReader.open(streamed).shards[0]["activations_BTD"]
    computed._model.cache_clear()
    assert asked == ["cuda:7"]


def test_reading_takes_smaller_forwards_when_memory_runs_out(streamed, lm, monkeypatch):
    expected, tried, forward = ActivationReader.open(streamed, lm).shards[0]["activations_BTD"], [], computed.forward_blocks

    def small_gpu(lm, ids_BT, neuron_ids, dtype, batch, advance):
        tried.append(batch)
        if batch > 2:
            raise torch.OutOfMemoryError
        return forward(lm, ids_BT, neuron_ids, dtype, batch, advance)

    monkeypatch.setattr(computed, "forward_blocks", small_gpu)
    again = ActivationReader.open(streamed, lm)
    torch.testing.assert_close(again.shards[0]["activations_BTD"], expected)
    n_tried = len(tried)
    _ = again.shards[1]["activations_BTD"]
    assert n_tried > 1 and tried[n_tried - 1 :] == [tried[-1]] * 2  # what fitted once is what the next shard begins with


def test_a_harvest_that_ran_out_of_memory_writes_down_what_it_went_on_with(tiny_study, lm, corpus_folder, tmp_path, monkeypatch):
    residual, settings = lm.residual, tiny_study.activations.model_copy(update={"source": "streaming"})

    def small_gpu(ids_BT, *args, **kwargs):
        if len(ids_BT) > 10:
            raise torch.OutOfMemoryError
        return residual(ids_BT, *args, **kwargs)

    monkeypatch.setattr(lm, "residual", small_gpu)
    (tmp_path / batch_size.FILE).write_text(json.dumps({"blocks_per_forward": 128}), encoding="utf-8")  # as on a GPU
    outcome = build_activations(corpus_folder, lm, settings, tiny_study.metrics, tmp_path, tiny_study.model)
    for name in ("statistics.json", batch_size.FILE):
        assert json.loads((tmp_path / name).read_text(encoding="utf-8"))["blocks_per_forward"] == 8
    assert outcome.metadata["tokens_per_forward"] == 8 * tiny_study.corpus.context


def test_a_signal_is_heard_between_two_forwards(streamed, lm, monkeypatch):
    asked, n_done, forward = interrupt.Deferred(), [], type(lm).residual

    def residual(self, ids_BT, neurons=None):
        n_done.append(len(ids_BT))
        asked.number = signal.SIGTERM  # arrives while the first one runs
        return forward(self, ids_BT, neurons=neurons)

    monkeypatch.setattr(type(lm), "residual", residual)
    monkeypatch.setattr(interrupt, "_current", asked)
    reader = ActivationReader.open(streamed, lm)
    reader.facts["blocks_per_forward"] = 2
    with pytest.raises(interrupt.StoppedError):
        _ = reader.shards[0]["activations_BTD"]
    assert len(n_done) == 1 and n_done[0] < len(reader.shards[0]["token_ids_BT"])


def test_training_from_a_stream_resumes_to_the_same_bytes(streamed, lm, tmp_path):
    settings = Sae(k=4, sizes=[64], epochs=3, batch=128, ring=1024, learning_rate=1e-3, checkpoint_every_steps=10)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    reader = ActivationReader.open(streamed, lm)
    metadata = build_sae(reader, settings, 64, whole).metadata
    assert metadata["n_steps"] > 30 and metadata["same_context_pairs_per_batch"] > 0

    class Failing(ActivationReader):
        n_left = 25

        def scaled(self, r_ND):
            type(self).n_left -= 1
            if self.n_left < 0:
                raise UserError("test", "stopped here", "Go on.")
            return super().scaled(r_ND)

    with pytest.raises(UserError, match="stopped here"):
        build_sae(Failing.open(streamed, lm), settings, 64, killed)
    assert build_sae(ActivationReader.open(streamed, lm), settings, 64, killed).metadata["resumed_at_step"] == 20
    for name in ("weights.safetensors", "config.json", "history.parquet"):
        assert file_digest(whole / name) == file_digest(killed / name), name
