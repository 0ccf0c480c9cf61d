import json

import numpy as np
import pytest
import torch

from sae_pipeline.errors import UserError
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.parameters import initial_parameters
from tests.science.test_sae_gradients import ARCHITECTURES
from tests.science.test_sae_gradients import parameters as training_parameters

D, F, N = 24, 96, 32


def config(architecture: str = "batch_topk") -> dict:
    return {"architecture": architecture, "k": 6, "n_features": F, "d_model": D, "scale": 0.37}


def random_parameters(seed: int = 0):
    """Trained-looking parameters: decoder norms far from 1, biases not zero, encoder not tied."""
    generator = torch.Generator().manual_seed(seed)
    parameters = initial_parameters(F, D, 1.0, generator, "cpu")
    with torch.no_grad():
        parameters.W_dec_FD.data *= 0.3 + 3 * torch.rand(F, 1, generator=generator)
        parameters.W_enc_FD.data += 0.1 * torch.randn(F, D, generator=generator)
        parameters.b_enc_F.normal_(0, 0.2, generator=generator)
        parameters.b_dec_D.normal_(0, 0.2, generator=generator)
    return parameters


def raw(n: int = N, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, D, generator=generator) + 5


def make(architecture: str, threshold: float) -> SparseAutoencoder:
    subtracts = architecture != "relu_l1"
    mean_D = torch.full((D,), 5.0)
    return SparseAutoencoder.from_parameters(random_parameters(), subtracts, threshold, mean_D, config(architecture))


def textbook(architecture: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """f_i ‖W_dec,i‖ and the raw reconstruction, in float64, from the training form of the parameters."""
    p = {name: value.detach().double().numpy() for name, value in random_parameters().named().items()}
    x = 0.37 * (raw().double().numpy() - 5.0)
    seen = x - p["b_dec_D"] if architecture != "relu_l1" else x
    f = np.maximum(seen @ p["W_enc_FD"].T + p["b_enc_F"], 0)
    u = f * np.linalg.norm(p["W_dec_FD"], axis=1)
    if architecture == "topk":
        kth = np.sort(u, axis=1)[:, -6][:, None]
        f = f * (u >= kth)
    else:
        f = f * (u > threshold)
    u = f * np.linalg.norm(p["W_dec_FD"], axis=1)
    return u, (f @ p["W_dec_FD"] + p["b_dec_D"]) / 0.37 + 5.0


@pytest.mark.parametrize(("architecture", "threshold"), [("relu_l1", 0.0), ("topk", 0.0), ("batch_topk", 1.5)])
def test_published_form_keeps_feature_activations_and_reconstruction(architecture, threshold):
    sae = make(architecture, threshold)
    u, r_hat = textbook(architecture, threshold)
    assert np.abs(sae.W_dec_FD.norm(dim=1).numpy() - 1).max() < 1e-6
    f_NF = sae.encode(raw())
    assert (f_NF > 0).sum() > N  # the case is not empty
    np.testing.assert_allclose(f_NF.numpy(), u, atol=2e-5)
    np.testing.assert_allclose(sae.decode(f_NF).numpy(), r_hat, atol=2e-4)
    np.testing.assert_allclose(sae.reconstruct(raw()).numpy(), r_hat, atol=2e-4)


@pytest.mark.parametrize("name", ["relu_l1", "gated", "jumprelu tanh", "jumprelu step"])
def test_published_form_of_every_architecture_with_thresholds_is_its_training_form(name):
    """f_i ‖W_dec,i‖ in float64, from the definitions in the training units."""
    made, architecture = training_parameters(name), ARCHITECTURES[name]()
    p = {key: value.detach().double() for key, value in made.named().items()}
    norm_F, x_ND = p["W_dec_FD"].norm(dim=1), 2 * torch.randn(200, made.d_model, generator=torch.Generator().manual_seed(5))
    seen_ND = x_ND.double() - p["b_dec_D"] if architecture.subtracts_decoder_bias else x_ND.double()
    z_NF = seen_ND @ p["W_enc_FD"].T + p["b_enc_F"]
    f_NF = torch.relu(z_NF)
    if name == "gated":
        f_NF = (z_NF > 0) * torch.relu(p["r_mag_F"].exp() * (seen_ND @ p["W_enc_FD"].T) + p["b_mag_F"])
    if name.startswith("jumprelu"):
        f_NF = z_NF * (z_NF > p["log_threshold_F"].exp())
    with torch.no_grad():
        inferred, threshold = architecture.inference(made)
    settings = {"architecture": name, "k": None, "n_features": len(norm_F), "d_model": made.d_model, "scale": 1.0}
    sae = SparseAutoencoder.from_parameters(
        inferred, architecture.subtracts_decoder_bias, threshold, torch.zeros(made.d_model), settings
    )
    assert 0.1 < (f_NF > 0).double().mean() < 0.7 and ((f_NF == 0) & (z_NF > 0)).any() == (name != "relu_l1")
    torch.testing.assert_close(sae.encode(x_ND).double(), f_NF * norm_F, atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(sae.reconstruct(x_ND).double(), f_NF @ p["W_dec_FD"] + p["b_dec_D"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lowest", [-1.0, 0.0, 0.5])
def test_every_feature_has_its_own_threshold(lowest):
    sae = make("batch_topk", 0.0)
    sae.threshold_F = torch.linspace(lowest, 4.0, F)
    u, _ = textbook("batch_topk", 0.0)
    expected = np.where(u > sae.threshold_F.numpy(), u, 0)
    assert ((expected > 0) != (u > 0)).any()  # some thresholds matter
    np.testing.assert_allclose(sae.encode(raw()).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(("architecture", "threshold"), [("relu_l1", 0.0), ("topk", 0.0), ("batch_topk", 1.5)])
def test_a_batch_of_1_equals_a_batch_of_32(architecture, threshold):
    sae = make(architecture, threshold)
    r_ND = raw().bfloat16()
    together = sae.encode(r_ND)
    alone = torch.cat([sae.encode(row_1D) for row_1D in r_ND.split(1)])
    if architecture == "batch_topk":  # values are computed pair by pair: equal to the last bit
        assert torch.equal(together, alone)
    else:
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_tokens_of_huge_norm_are_encoded_as_exactly_as_others():
    sae = make("batch_topk", 1.5)
    r_ND = raw()
    r_ND[3] *= 200
    x = 0.37 * (r_ND.double() - 5.0)
    z = x @ sae.W_enc_FD.double().T + sae.b_enc_F.double()
    expected = torch.where(z > 1.5, z, 0.0)
    torch.testing.assert_close(sae.encode(r_ND).double(), expected, rtol=1e-5, atol=1e-4)


def test_sparse_codes_are_the_dense_activations():
    sae = make("batch_topk", 1.5)
    codes = sae.encode_sparse(raw())
    dense = sae.encode(raw())
    assert codes.offsets.dtype == torch.int64 and codes.feature.dtype == torch.int32 and codes.value.dtype == torch.float32
    for n in range(N):
        part = slice(int(codes.offsets[n]), int(codes.offsets[n + 1]))
        assert codes.feature[part].tolist() == dense[n].nonzero().squeeze(1).tolist()
        assert torch.equal(codes.value[part], dense[n][dense[n] > 0])
    torch.testing.assert_close(sae.decode_sparse(codes), sae.decode(dense), atol=1e-4, rtol=1e-5)


def test_no_tokens_and_no_active_features_are_ordinary_cases():
    sae = make("batch_topk", 1e6)
    assert sae.encode_sparse(raw()).offsets.tolist() == [0] * (N + 1)
    torch.testing.assert_close(sae.reconstruct(raw())[0], sae.b_dec_D / 0.37 + 5.0)
    assert sae.encode(raw(0)).shape == (0, F)
    assert sae.reconstruct(raw(0)).shape == (0, D)


def test_saved_and_loaded_is_the_same(tmp_path):
    sae = make("batch_topk", 1.5)
    sae.save(tmp_path)
    again = SparseAutoencoder.load(tmp_path)
    assert again.config == sae.config and again.n_features == F and again.d_model == D and again.scale == 0.37
    assert torch.equal(again.encode(raw()), sae.encode(raw()))


def test_broken_files_are_refused_with_their_name(tmp_path):
    make("batch_topk", 1.5).save(tmp_path)
    weights = tmp_path / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no readable SAE"):
        SparseAutoencoder.load(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / "config.json").write_text(json.dumps(config() | {"n_features": F + 1}), encoding="utf-8")
    with pytest.raises(UserError, match=r"does not fit config\.json"):
        SparseAutoencoder.load(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        SparseAutoencoder.load(tmp_path / "nowhere")
