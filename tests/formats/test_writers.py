"""Writers: what they write computes the same, as the other tool defines it; round trips; what cannot be held is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sae_pipeline.errors import UserError
from sae_pipeline.formats import export
from sae_pipeline.formats.export import largest_difference, new_folder, write_checked
from sae_pipeline.formats.published import from_published, to_published
from sae_pipeline.formats.raw_sae import Origin, RawSae
from sae_pipeline.formats.registry import FORMATS, read_sae
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from tests.formats import makers
from tests.formats.makers import D, activations

F = 48


def published(architecture: str, seed: int = 0) -> SparseAutoencoder:
    """An SAE of this project with a mean, a scale and thresholds of its own."""
    generator = torch.Generator().manual_seed(seed)
    W_FD = torch.randn(F, D, generator=generator)
    thresholds = {"relu_l1": torch.zeros(F), "topk": torch.zeros(F), "batch_topk": torch.full((F,), 1.1)}
    weights = {
        "W_enc_FD": W_FD + 0.2 * torch.randn(F, D, generator=generator), "b_enc_F": 0.3 * torch.randn(F, generator=generator),
        "W_dec_FD": W_FD / W_FD.norm(dim=1, keepdim=True), "b_dec_D": torch.randn(D, generator=generator),
        "threshold_F": thresholds.get(architecture, torch.linspace(-0.5, 3, F)),
        "mean_D": 4 * torch.randn(D, generator=generator),
    }  # fmt: skip
    return SparseAutoencoder(weights, {"architecture": architecture, "k": 5, "scale": 0.43, "n_features": F, "d_model": D})


def by_design(sae: SparseAutoencoder) -> tuple[torch.Tensor, torch.Tensor]:
    r = torch.from_numpy(activations()).float()
    return sae.encode(r).double(), sae.reconstruct(r).double()


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("architecture", ["relu_l1", "topk", "batch_topk", "jumprelu", "gated", "matryoshka"])
def test_saelens_files_compute_what_our_sae_does(architecture, tmp_path):
    """Read without our reader: the definition of SAELens on the tensors of the file. f is the published f, unchanged."""
    sae = published(architecture)
    write_checked(from_published(sae), "saelens", tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    kind = {"relu_l1": "standard", "topk": "topk"}.get(architecture, "jumprelu")
    assert config["architecture"] == kind and config["normalize_activations"] == "none" and not config["apply_b_dec_to_input"]
    W = makers.wide(load_file(tmp_path / "sae_weights.safetensors"))
    z = activations() @ W["W_enc"] + W["b_enc"]
    f = makers.relu(z)
    if kind == "topk":
        f = f * makers.largest(z, config["k"])
    if kind == "jumprelu":
        f = f * (z > W["threshold"])
    expected_f, expected_r = by_design(sae)
    assert (expected_f > 0).any(1).all()
    close(torch.from_numpy(f), expected_f)
    close(torch.from_numpy(f @ W["W_dec"] + W["b_dec"]), expected_r)


def test_sparsify_files_compute_what_our_sae_does(tmp_path):
    sae = published("topk")
    write_checked(from_published(sae), "sparsify", tmp_path)
    config, W = json.loads((tmp_path / "cfg.json").read_text()), makers.wide(load_file(tmp_path / "sae.safetensors"))
    assert config["num_latents"] == F and config["d_in"] == D and config["k"] == 5
    z = makers.relu((activations() - W["b_dec"]) @ W["encoder.weight"].T + W["encoder.bias"])
    f = z * makers.largest(z, 5)
    close(torch.from_numpy(f), by_design(sae)[0])
    close(torch.from_numpy(f @ W["W_dec"] + W["b_dec"]), by_design(sae)[1])


@pytest.mark.parametrize("to", ["saelens", "sparsify", "own"])
@pytest.mark.parametrize(
    "name", ["sparsify", "saelens topk ranked by decoder norm", "openai TopK", "saelens standard layer_norm"]
)
def test_conversions_keep_features_and_reconstruction(name, to, tmp_path):
    from tests.formats.test_readers import CASES

    kind, make = CASES[name]
    make(tmp_path / "in")
    raw = read_sae(kind, tmp_path / "in")
    if to == "sparsify" and (raw.k is None or raw.token_norm != "none"):
        with pytest.raises(UserError):
            write_checked(raw, to, tmp_path / "out")
        return
    write_checked(raw, to, tmp_path / "out")
    again = read_sae(to, tmp_path / "out")
    assert largest_difference(raw, again) < 1e-5 and largest_difference(again, raw) < 1e-5
    if to != "own":  # own has unit rows: its f is f ‖W_dec,i‖
        close(again.forward(torch.from_numpy(activations()))[0], raw.forward(torch.from_numpy(activations()))[0])


def test_a_whole_round_trip_through_every_writable_format(tmp_path):
    """own -> saelens -> sparsify -> own -> published: the same SAE."""
    sae = published("topk")
    sae.save(tmp_path / "0")
    raw = read_sae("own", tmp_path / "0")
    for step, to in enumerate(("saelens", "sparsify", "own"), 1):
        write_checked(raw, to, tmp_path / str(step))
        raw = read_sae(to, tmp_path / str(step))
    again = to_published(raw, sae.scale, sae.mean_D, {})
    close(again.encode(torch.from_numpy(activations()).float()).double(), by_design(sae)[0])
    close(again.reconstruct(torch.from_numpy(activations()).float()).double(), by_design(sae)[1])


def test_what_a_format_cannot_hold_is_refused_and_nothing_left(tmp_path):
    raw = from_published(published("batch_topk"))
    with pytest.raises(UserError, match="sparsify knows top-k only"), new_folder(tmp_path / "out") as scratch:
        write_checked(raw, "sparsify", scratch)
    with pytest.raises(UserError, match="can be read, not written"), new_folder(tmp_path / "out") as scratch:
        write_checked(raw, "gemma_scope", scratch)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "keep").touch()
    with pytest.raises(UserError, match="not an empty folder"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "keep").exists()


def test_a_writer_that_computes_something_else_is_caught(tmp_path, monkeypatch):
    """The read-back check itself: a transposed, unfolded or rescaled file must not pass."""
    raw = from_published(published("batch_topk"))

    def wrong(sae: RawSae, folder: Path) -> list[str]:
        broken = RawSae(**{**vars(sae), "b_enc_F": sae.b_enc_F - 0.1})
        return FORMATS["saelens"].write(broken, folder)  # pyright: ignore[reportOptionalCall]

    monkeypatch.setattr(
        export, "format_named", lambda name, field="": type("F", (), {"write": wrong, "read": FORMATS[name].read})
    )
    with pytest.raises(RuntimeError, match="computes something else"):
        write_checked(raw, "saelens", tmp_path)


def test_metadata_is_carried_and_never_invented(tmp_path):
    raw = from_published(published("batch_topk"), Origin("own", "x", "gpt2", "model.layers.3", 64, False, 1000))
    write_checked(raw, "saelens", tmp_path / "a")
    metadata = json.loads((tmp_path / "a" / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.3.hook_resid_post" and metadata["prepend_bos"] is False
    assert metadata["hf_hook_name"] == "model.layers.3"  # as the file had it; other models call their blocks otherwise
    assert metadata["training_architecture"] == "batchtopk" and metadata["context_size"] == 64
    write_checked(from_published(published("batch_topk")), "saelens", tmp_path / "b")
    silent = json.loads((tmp_path / "b" / "cfg.json").read_text())["metadata"]
    assert set(silent) == {"training_architecture", "sae_lens_version"}
    assert read_sae("saelens", tmp_path / "a").architecture == "batch_topk"


def test_the_export_rule_of_the_design(tmp_path):
    """W_enc <- s W_enc, b_enc <- b_enc - s W_enc mu, W_dec <- W_dec / s, b_dec <- b_dec / s + mu, thresholds unchanged."""
    sae = published("jumprelu")
    raw = from_published(sae)
    np.testing.assert_allclose(raw.W_enc_FD.numpy(), 0.43 * sae.W_enc_FD.numpy(), rtol=1e-6)
    expected = sae.b_enc_F.double() - 0.43 * (sae.W_enc_FD.double() @ sae.mean_D.double())
    np.testing.assert_allclose(raw.b_enc_F.double().numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(raw.W_dec_FD.numpy(), sae.W_dec_FD.numpy() / 0.43, rtol=1e-6)
    np.testing.assert_allclose(raw.b_dec_D.numpy(), (sae.b_dec_D / 0.43 + sae.mean_D).numpy(), rtol=1e-5, atol=1e-6)
    assert torch.equal(raw.threshold_F, sae.threshold_F)
