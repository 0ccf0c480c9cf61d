"""`activations.source: streaming`: the same numbers as from stored shards, without the shards."""

import pytest
import torch
from safetensors import safe_open

from sae_pipeline.activations import computed
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
    monkeypatch.setattr(computed.ComputedShards, "_compute", lambda self, ids: calls.append(len(ids)) or compute(self, ids))
    again = ActivationReader.open(streamed, lm)
    for _ in again.stream("train", 100):
        pass
    assert len(calls) == len(again.shards)


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
