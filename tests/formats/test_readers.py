"""Every reader against the format's own definition: same features, same reconstruction, as raw weights and as published."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_pipeline.formats.published import from_published, to_published
from sae_pipeline.formats.raw_sae import RawSae
from sae_pipeline.formats.registry import FORMATS, read_sae
from tests.formats import makers
from tests.formats.makers import D, activations

Maker = Callable[[Path], makers.Forward]
CLASSES = [
    "AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
]  # fmt: skip
CASES: dict[str, tuple[str, Maker]] = {
    **{
        f"saelens {architecture} b_dec {'subtracted' if subtract else 'kept'}": (
            "saelens", lambda folder, a=architecture, s=subtract: makers.saelens(folder, a, s)
        )
        for architecture in ("standard", "gated", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk")
        for subtract in (True, False)
    },
    **{
        f"saelens {architecture} {norm}": ("saelens", lambda folder, a=architecture, n=norm: makers.saelens(folder, a, True, n))
        for architecture in ("standard", "topk", "jumprelu")
        for norm in ("layer_norm", "constant_norm_rescale")
    },
    "saelens topk ranked by decoder norm": ("saelens", lambda folder: makers.saelens(folder, "topk", rescale=True)),
    "saelens batchtopk ranked by decoder norm": ("saelens", lambda folder: makers.saelens(folder, "batchtopk", rescale=True)),
    "saelens log_threshold": ("saelens", lambda folder: makers.saelens(folder, "jumprelu", log=True)),
    "saelens 2-5": ("saelens", lambda folder: makers.saelens_old(folder)),
    "saelens 2-5 topk": ("saelens", lambda folder: makers.saelens_old(folder, topk=True)),
    "gemma scope": ("gemma_scope", makers.gemma_scope),
    "gemma scope 2": ("gemma_scope_2", makers.gemma_scope_2),
    "sparsify": ("sparsify", makers.sparsify),
    "sparsify num_latents 0": ("sparsify", lambda f: makers.sparsify(f, 3 * D, num_latents=0, expansion_factor=3)),
    "sparsify free decoder": ("sparsify", lambda folder: makers.sparsify(folder, normalize_decoder=False)),
    **{
        f"dictionary_learning {name}": ("dictionary_learning", lambda folder, n=name: makers.dictionary_learning(folder, n))
        for name in CLASSES
    },
    **{f"openai {a}": ("openai", lambda folder, a=a: makers.openai(folder / "sae.pt", a)) for a in ("TopK", "ReLU")},
}  # fmt: skip


def same(found: tuple, expected: tuple, tolerance: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= tolerance * max(1.0, np.abs(other).max())


@pytest.mark.parametrize("case", CASES)
def test_reader_computes_what_the_format_defines(case, tmp_path):
    name, make = CASES[case]
    forward = make(tmp_path)
    raw = read_sae(name, tmp_path)
    f, r_hat = forward(activations())
    assert 0.02 < (f > 0).mean() < 0.98  # features are active and silent: the case says something
    same(raw.forward(torch.from_numpy(activations())), (f, r_hat))


@pytest.mark.parametrize("case", CASES)
def test_published_form_computes_the_same_in_float32(case, tmp_path):
    """f_published = s n_i f, the reconstruction itself; mean and scale are those of other tokens."""
    name, make = CASES[case]
    f, r_hat = make(tmp_path)(activations())
    raw = read_sae(name, tmp_path)
    mean_D, scale = torch.linspace(-1, 2, D), 0.7
    sae = to_published(raw, scale, mean_D, {})
    assert float((sae.W_dec_FD.norm(dim=1) - 1).abs().max()) < 1e-6
    r = torch.from_numpy(activations()).float()
    unit = raw.W_dec_FD.norm(dim=1).numpy() * (scale if raw.token_norm == "none" else 1.0)
    same((sae.encode(r).numpy() / unit, sae.reconstruct(r).numpy()), (f, r_hat), 2e-5)
    again = from_published(sae)
    same((again.forward(r)[1],), (r_hat,), 2e-5)


def test_every_format_has_a_case():
    assert {name for name, _ in CASES.values()} == set(FORMATS) - {"own"}


def test_batch_of_one_equals_a_batch(tmp_path):
    """Batch top-k is a threshold at inference: a token's features never depend on its neighbours."""
    makers.saelens(tmp_path, "batchtopk")
    sae = to_published(read_sae("saelens", tmp_path), 1.0, torch.zeros(D), {})
    r = torch.from_numpy(activations()).float()
    assert torch.equal(sae.encode(r), torch.cat([sae.encode(row) for row in r.split(1)]))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk", "batchtopk"])
@pytest.mark.parametrize("subtract", [True, False])
def test_input_scale_is_folded_as_the_library_applies_it(architecture, subtract, tmp_path):
    """expected_average_only_in: activations are multiplied before the SAE, reconstructions divided after it."""
    plain = makers.saelens(tmp_path / "plain", architecture, subtract)
    makers.saelens(tmp_path / "scaled", architecture, subtract, norm="expected_average_only_in")
    f, r_hat = plain(0.31 * activations())
    expected = (f, r_hat / 0.31)
    same(read_sae("saelens", tmp_path / "scaled", input_scale=0.31).forward(torch.from_numpy(activations())), expected)
    (tmp_path / "scaled" / "activation_scaler.json").write_text('{"scaling_factor": 0.31, "has_whitening": false}')
    same(read_sae("saelens", tmp_path / "scaled").forward(torch.from_numpy(activations())), expected)


def test_low_precision_weights_are_read_exactly(tmp_path):
    from safetensors.torch import load_file, save_file

    makers.saelens(tmp_path, "standard")
    file = tmp_path / "sae_weights.safetensors"
    low = {key: value.bfloat16() for key, value in load_file(file).items()}
    save_file(low, file)
    raw = read_sae("saelens", tmp_path)
    assert raw.origin.dtype == "bfloat16" and raw.W_dec_FD.dtype == torch.float32
    assert torch.equal(raw.W_dec_FD, low["W_dec"].float())


def test_a_feature_without_decoder_is_never_active(tmp_path):
    makers.gemma_scope(tmp_path)
    raw = read_sae("gemma_scope", tmp_path)
    raw.W_dec_FD[5] = 0
    r = torch.from_numpy(activations()).float()
    sae = to_published(raw, 1.0, torch.zeros(D), {})
    assert (raw.forward(r)[0][:, 5] > 0).any() and not (sae.encode(r)[:, 5] > 0).any()
    same((sae.reconstruct(r),), (raw.forward(r)[1],), 2e-5)


def test_what_the_files_say_about_themselves(tmp_path):
    makers.saelens(tmp_path / "a", "jumprelu", metadata={"training_architecture": "matryoshka_batchtopk"})
    raw = read_sae("saelens", tmp_path / "a")
    assert (raw.architecture, raw.origin.hook, raw.origin.bos, raw.origin.context) == (
        "matryoshka", "blocks.1.hook_resid_post", True, 128,
    )  # fmt: skip
    makers.saelens_old(tmp_path / "b", prepend_bos=False)
    old = read_sae("saelens", tmp_path / "b").origin
    assert "training settings not used: hook_point_layer" in ", ".join(old.notes)
    assert (old.hook, old.bos, old.model) == ("blocks.8.hook_resid_pre", False, "gpt2-small")
    makers.sparsify(tmp_path / "run" / "layers.4")
    (tmp_path / "run" / "config.json").write_text('{"model": "EleutherAI/pythia-160m", "ctx_len": 2048}')
    sparse = read_sae("sparsify", tmp_path / "run", within="layers.4").origin
    assert (sparse.hook, sparse.bos, sparse.context, sparse.model) == ("layers.4", None, 2048, "EleutherAI/pythia-160m")
    place = "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
    makers.gemma_scope(tmp_path / place)
    gemma = read_sae("gemma_scope", tmp_path / place).origin
    assert (gemma.model, gemma.hook, gemma.bos) == ("google/gemma-2-2b", "blocks.12.hook_resid_post", True)
    makers.dictionary_learning(tmp_path / "c", "BatchTopKSAE", submodule_name="mlp_out")
    assert read_sae("dictionary_learning", tmp_path / "c").origin.hook is None  # free text is not guessed at


def test_a_file_may_be_named_instead_of_its_folder(tmp_path):
    forward = makers.openai(tmp_path / "a.pt")
    makers.openai(tmp_path / "b.pt", "ReLU")
    same(read_sae("openai", tmp_path / "a.pt").forward(torch.from_numpy(activations())), forward(activations()))


def test_raw_sae_forward_refuses_nothing_silently(tmp_path):
    """The yardstick itself, on one token by hand."""
    makers.gemma_scope(tmp_path)
    raw: RawSae = read_sae("gemma_scope", tmp_path)
    r = torch.from_numpy(activations(1))
    z = raw.W_enc_FD.double() @ r[0] + raw.b_enc_F.double()
    by_hand = [float(value) if value > max(0.0, float(t)) else 0.0 for value, t in zip(z, raw.threshold_F, strict=True)]
    np.testing.assert_allclose(raw.forward(r)[0][0].numpy(), by_hand, atol=1e-12)
