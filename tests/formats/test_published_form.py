"""What the published form needs beyond our own SAEs: another ranking, tokens normalised by themselves, thresholds near 0."""

import numpy as np
import pytest
import torch

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import Intervention, Push

D, F, N = 24, 80, 40


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    W_FD = torch.randn(F, D, generator=generator)
    return {
        "W_enc_FD": W_FD + 0.3 * torch.randn(F, D, generator=generator), "b_enc_F": 0.1 * torch.randn(F, generator=generator),
        "W_dec_FD": W_FD / W_FD.norm(dim=1, keepdim=True), "b_dec_D": 0.2 * torch.randn(D, generator=generator),
        "threshold_F": torch.zeros(F), "mean_D": torch.zeros(D),
    }  # fmt: skip


def raw(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(N, D, generator=generator) + 0.5) * (1 + 9 * torch.rand(N, 1, generator=generator))


def config(architecture: str, **more) -> dict:
    return {"architecture": architecture, "k": 7, "n_features": F, "d_model": D, "scale": 1.0, **more}


def test_topk_may_rank_by_another_number_than_the_value():
    parts = weights() | {"rank_F": torch.linspace(0.2, 5, F)}
    z = (raw().double() @ parts["W_enc_FD"].double().T + parts["b_enc_F"].double()).numpy()
    score = z * parts["rank_F"].numpy()
    expected = np.where((score >= np.sort(score, axis=1)[:, -7][:, None]) & (z > 0), z, 0)
    plain = np.where((z >= np.sort(z, axis=1)[:, -7][:, None]) & (z > 0), z, 0)
    assert ((expected > 0) != (plain > 0)).any()  # the ranking matters
    found = SparseAutoencoder(parts, config("topk")).encode(raw())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("token_norm", ["layer_norm", "constant_norm"])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_tokens_normalised_by_themselves(token_norm, architecture):
    parts = weights() | {"threshold_F": torch.full((F,), 1.5)}
    sae = SparseAutoencoder(parts, config(architecture, token_norm=token_norm))
    r = raw().double().numpy()
    if token_norm == "layer_norm":
        shift, inward = r.mean(1, keepdims=True), 1 / (r.std(1, ddof=1, keepdims=True) + 1e-5)
        outward = r.std(1, ddof=1, keepdims=True)
    else:
        shift, inward = 0.0, np.sqrt(D) / np.linalg.norm(r, axis=1, keepdims=True)
        outward = 1 / inward
    z = ((r - shift) * inward) @ parts["W_enc_FD"].double().numpy().T + parts["b_enc_F"].double().numpy()
    kept = z >= np.sort(z, axis=1)[:, -7][:, None] if architecture == "topk" else z > 1.5
    f = np.where(kept & (z > 0), z, 0)
    r_hat = (f @ parts["W_dec_FD"].double().numpy() + parts["b_dec_D"].double().numpy()) * outward + shift
    np.testing.assert_allclose(sae.encode(raw()).numpy(), f, atol=2e-4)
    np.testing.assert_allclose(sae.reconstruct(raw()).numpy(), r_hat, rtol=1e-4, atol=2e-4)
    with pytest.raises(ValueError, match="decode_sparse"):
        sae.decode(sae.encode(raw()))


def test_clamping_moves_by_the_tokens_own_scale():
    parts = weights()
    sae = SparseAutoencoder(parts, config("batch_topk", token_norm="layer_norm"))
    r_ND = raw()
    f_NF = sae.encode(r_ND)
    steered_ND = Intervention(sae, [[Push(4.0, "clamp", 5)]], threshold_norm=1e9)(r_ND[None], None, 0)[0]
    moved = (4.0 - f_NF[:, 5:6]) * sae.W_dec_FD[5] * r_ND.std(1, keepdim=True)
    torch.testing.assert_close(steered_ND - r_ND, moved, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_low", [0, 1, F // 2])
def test_thresholds_near_zero_lose_no_activation_to_rounding(n_low):
    """bfloat16 finds candidates only where its rounding is far below the margin; here activations lie just above thresholds."""
    parts = weights()
    parts["W_enc_FD"] = 6 * parts["W_enc_FD"]
    threshold_F = torch.full((F,), 0.02)
    threshold_F[:n_low] = -1.0
    parts["threshold_F"] = threshold_F
    z = raw().double() @ parts["W_enc_FD"].double().T + parts["b_enc_F"].double()
    sae = SparseAutoencoder(parts, config("jumprelu"))
    active = (z > threshold_F.double()) & (z > 0)
    sure = (z - threshold_F.clamp(min=0)).abs() > 1e-3
    assert torch.equal((sae.encode(raw()) > 0)[sure], active[sure])


def test_optional_tensors_survive_saving(tmp_path):
    sae = SparseAutoencoder(weights() | {"rank_F": torch.linspace(0.2, 5, F)}, config("topk", token_norm="layer_norm"))
    sae.save(tmp_path)
    again = SparseAutoencoder.load(tmp_path)
    assert torch.equal(again.weights["rank_F"], sae.weights["rank_F"]) and again.token_norm == "layer_norm"
    assert torch.equal(again.to("cpu").encode(raw()), sae.encode(raw()))
