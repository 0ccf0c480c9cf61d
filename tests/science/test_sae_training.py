import json

import polars as pl
import pytest
import torch

from sae_pipeline.errors import UserError
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.build import build_sae
from tests.science.trainings import FILES, PLAIN, SIZE, digests, section


@pytest.mark.parametrize("architecture", PLAIN)
def test_a_planted_dictionary_is_found(planted_activations, tmp_path, architecture):
    build_sae(planted_activations, section(architecture), SIZE, tmp_path)
    sae = SparseAutoencoder.load(tmp_path)
    r_ND = planted_activations.gather(planted_activations.token_index("held_out")).float()
    residual = (r_ND - sae.reconstruct(r_ND)).square().sum()
    explained = 1 - residual / (r_ND - r_ND.mean(0)).square().sum()
    similarity_Q = (planted_activations.direction_QD @ sae.W_dec_FD.T).max(dim=1).values
    assert explained > 0.8
    assert (similarity_Q > 0.9).float().mean() > 0.7


def test_what_is_written(trained_sae, planted_activations):
    sae = SparseAutoencoder.load(trained_sae)
    n_tokens = len(planted_activations.token_index("train"))
    n_steps = 20 * n_tokens // 256
    assert sorted(file.name for file in trained_sae.iterdir()) == sorted(FILES)  # no checkpoint stays behind
    assert sae.config["n_tokens_trained"] == n_steps * 256 and sae.config["hook"] == "planted"
    assert sae.scale == planted_activations.scale and torch.equal(sae.mean_D, planted_activations.mean_D)
    history = pl.read_parquet(trained_sae / "history.parquet")
    assert history["step"].to_list() == list(range(n_steps))
    assert history["l0"].to_list() == pytest.approx([3.0] * n_steps)
    assert history["learning_rate"][0] == 5e-3 and history["learning_rate"][-1] < 2e-4
    assert history["explained_variance_batch"][-1] > history["explained_variance_batch"][0] + 0.3


def test_l0_on_held_out_tokens_is_k_at_the_stored_threshold(trained_sae, planted_activations):
    sae = SparseAutoencoder.load(trained_sae)
    codes = sae.encode_sparse(planted_activations.gather(planted_activations.token_index("held_out")))
    assert len(codes.feature) / (len(codes.offsets) - 1) == pytest.approx(3.0, abs=0.3)


def test_equal_seeds_give_equal_bytes_and_another_seed_others(trained_sae, planted_activations, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        build_sae(planted_activations, section(seed=seed), SIZE, tmp_path / name, {"hook": "planted"})
    assert digests(tmp_path / "again") == digests(trained_sae)
    assert digests(tmp_path / "other")["weights.safetensors"] != digests(trained_sae)["weights.safetensors"]


def test_a_batch_larger_than_the_data_and_a_diverging_run_are_user_errors(planted_activations, tmp_path):
    with pytest.raises(UserError, match=r"sae\.batch"):
        build_sae(planted_activations, section(batch=10**6), SIZE, tmp_path)
    with pytest.raises(UserError, match="training diverged"):
        build_sae(planted_activations, section(learning_rate=1e30), SIZE, tmp_path)


def test_published_center_share_is_that_of_the_data(trained_sae, planted_activations):
    train_ND = planted_activations.gather(planted_activations.token_index("train")).double()
    expected = train_ND.mean(0).square().sum() / train_ND.square().sum(1).mean()
    config = json.loads((trained_sae / "config.json").read_text(encoding="utf-8"))
    assert config["center_share"] == pytest.approx(float(expected), rel=1e-5)
