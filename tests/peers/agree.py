"""Our readers and writers against the libraries themselves, in an environment where these are installed (`make peers`).

    python tests/peers/agree.py [SAELENS_EXPORT]

Reading: an SAE with random weights is made and saved by the library, read by us, and encodes the same activations. Writing: our
files are loaded by the library. Everything in float32; the largest difference relative to the largest value is printed.
`SAELENS_EXPORT`: an SAE of a study, written by `sae-pipeline export --to saelens`, is loaded as well.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from sae_pipeline.formats.published import from_published, to_published
from sae_pipeline.formats.registry import read_sae
from sae_pipeline.formats.saelens_writer import write_saelens
from sae_pipeline.formats.sparsify import write_sparsify
from sae_pipeline.sae.autoencoder import SparseAutoencoder

D, F, K, N = 64, 256, 8, 200
BOUND = 1e-5
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


def activations(d: int = D) -> Tensor:
    """Raw activations far from the origin, of unequal norms."""
    generator = torch.Generator().manual_seed(5)
    r_ND = torch.randn(N, d, generator=generator) * (0.5 + 2 * torch.rand(N, 1, generator=generator))
    return r_ND + torch.randn(d, generator=generator)


@torch.no_grad()
def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Trained-looking parameters: biases, free decoder norms, thresholds."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in sorted(module.named_parameters()):
        spread = 0.3 if name.startswith(("r_mag", "b_", "bias", "threshold")) else 1.0
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        if name.startswith("threshold"):
            parameter.abs_().add_(0.5)
    return module


def dense(value: Tensor) -> Tensor:
    """SAELens may answer with sparse tensors."""
    return value.to_dense() if value.is_sparse else value


# --- made there, read here


def saelens_cases(folder: Path) -> Iterator[tuple[str, str, Path, Forward]]:
    """(name, format, folder, forward) of SAELens SAEs, inference and training forms."""
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    def metadata() -> SAEMetadata:
        return SAEMetadata(model_name="gpt2", hook_name="blocks.3.hook_resid_post", context_size=128, prepend_bos=True)

    for architecture in ("Standard", "Gated", "TopK", "JumpReLU"):
        for changes in ({}, {"apply_b_dec_to_input": False}, {"normalize_activations": "layer_norm"},
                        {"normalize_activations": "constant_norm_rescale"}, {"rescale_acts_by_decoder_norm": True}):  # fmt: skip
            if "rescale_acts_by_decoder_norm" in changes and architecture != "TopK":
                continue
            more = changes | ({"k": K} if architecture == "TopK" else {})
            config = getattr(sae_lens, f"{architecture}SAEConfig")(d_in=D, d_sae=F, metadata=metadata(), **more)
            sae = randomise(getattr(sae_lens, f"{architecture}SAE")(config))
            name = f"{architecture} {' '.join(f'{key}={value}' for key, value in changes.items())}".strip()
            place = folder / name.replace(" ", "_").replace("=", "_")
            sae.save_model(place)
            loaded = sae_lens.SAE.load_from_disk(place)
            yield f"SAELens {name}", "saelens", place, forward_of(loaded)
    for architecture in ("BatchTopK", "MatryoshkaBatchTopK"):
        for rescale in (True, False):
            more = {"matryoshka_widths": [F // 4, F]} if "Matryoshka" in architecture else {}
            config = getattr(sae_lens, f"{architecture}TrainingSAEConfig")(
                d_in=D, d_sae=F, k=K, rescale_acts_by_decoder_norm=rescale, metadata=metadata(), **more
            )
            sae = randomise(getattr(sae_lens, f"{architecture}TrainingSAE")(config))
            sae.topk_threshold = torch.tensor(3.0, dtype=torch.double)
            for form in ("inference", "training"):
                place = folder / f"{architecture}_{rescale}_{form}"
                sae.save_inference_model(place) if form == "inference" else sae.save_model(place)
                inference = folder / f"{architecture}_{rescale}_inference"
                yield (
                    f"SAELens {architecture} rescale={rescale} {form} files", "saelens", place,
                    forward_of(sae_lens.SAE.load_from_disk(inference)),
                )  # fmt: skip


def forward_of(sae) -> Forward:
    """encode and decode of a SAELens SAE."""

    @torch.no_grad()
    def forward(r_ND: Tensor) -> tuple[Tensor, Tensor]:
        f_NF = sae.encode(r_ND)
        return dense(f_NF), sae.decode(f_NF)

    return forward


def gemma_scope_cases(folder: Path) -> Iterator[tuple[str, str, Path, Forward]]:
    """Gemma Scope 1 and 2 as SAELens loads them; the files are made here, its download is pointed at them."""
    import numpy as np
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(9)
    shapes = {"w_enc": (D, F), "w_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    first, second = folder / "layer_12" / "width_16k", folder / "resid_post" / "layer_17_width_16k_l0_medium"
    for place in (first, second):
        place.mkdir(parents=True)
    np.savez(first / "params.npz", **{key.replace("w_", "W_"): value.numpy() for key, value in tensors.items()})
    save_file(tensors, second / "params.safetensors")
    config = {"architecture": "jump_relu", "model_name": "gemma-3-4b-pt", "hf_hook_point_in": "model.layers.17.output"}
    (second / "config.json").write_text(json.dumps(config))

    def local(repo_id, filename, subfolder=None, **more) -> str:
        return str(folder / (f"{subfolder}/{filename}" if subfolder else filename))

    before = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
    loaders.hf_hub_download = local
    loaders.get_safetensors_tensor_shapes = lambda *names: {key: list(shape) for key, shape in shapes.items()}
    try:
        for name, load, repository, place in (
            ("gemma_scope", loaders.gemma_2_sae_huggingface_loader, "google/gemma-scope-2b-pt-res", first),
            ("gemma_scope_2", loaders.gemma_3_sae_huggingface_loader, "google/gemma-scope-2-4b-pt", second),
        ):
            overrides = {"d_in": D, "d_sae": F}
            found, state, _ = load(repository, place.relative_to(folder).as_posix(), "cpu", cfg_overrides=overrides)
            sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig.from_dict(loaders.handle_config_defaulting(found)))
            sae.load_state_dict(state)
            yield f"{name} as SAELens loads it", name, place, forward_of(sae)
    finally:
        loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = before


def sparsify_cases(folder: Path) -> Iterator[tuple[str, str, Path, Forward]]:
    """The same for sparsify, with num_latents given and 0."""
    from sparsify import SparseCoder, SparseCoderConfig

    for latents in (F, 0):
        for normalize in (True, False):
            config = SparseCoderConfig(num_latents=latents, expansion_factor=F // D, k=K, normalize_decoder=normalize)
            place = folder / f"layers.{3 + latents}" / str(normalize)
            randomise(SparseCoder(D, config)).save_to_disk(place)  # pyright: ignore[reportCallIssue]
            name = f"sparsify num_latents={latents} normalize_decoder={normalize}"
            yield name, "sparsify", place, sparsify_forward(SparseCoder.load_from_disk(place), F)


def sparsify_forward(coder, n_features: int) -> Forward:
    """Dense f and the reconstruction of a sparsify coder."""

    @torch.no_grad()
    def forward(r_ND: Tensor) -> tuple[Tensor, Tensor]:
        acts, indices, _ = coder.encode(r_ND)
        return torch.zeros(len(r_ND), n_features).scatter_(1, indices, acts), coder.decode(acts, indices)

    return forward


def dictionary_cases(folder: Path) -> Iterator[tuple[str, str, Path, Forward]]:
    """Every class of dictionary_learning, saved as its training loop saves it and loaded by its own loader."""
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k
    from dictionary_learning.utils import load_dictionary

    makers = {
        "AutoEncoder": lambda: dictionary.AutoEncoder(D, F), "AutoEncoderNew": lambda: dictionary.AutoEncoderNew(D, F),
        "GatedAutoEncoder": lambda: dictionary.GatedAutoEncoder(D, F), "AutoEncoderTopK": lambda: top_k.AutoEncoderTopK(D, F, K),
        "BatchTopKSAE": lambda: batch_top_k.BatchTopKSAE(D, F, K),
        "MatryoshkaBatchTopKSAE": lambda: matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(D, F, K, [F // 4, F - F // 4]),
        "JumpReluAutoEncoder": lambda: dictionary.JumpReluAutoEncoder(D, F),
    }  # fmt: skip
    for name, make in makers.items():
        made = randomise(make())
        if hasattr(made, "threshold") and "TopK" in name:
            made.threshold = torch.tensor(2.0)
        place = folder / name
        place.mkdir(parents=True)
        torch.save(made.state_dict(), place / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "layer": 3, "lm_name": "gpt2", "submodule_name": None}
        trainer |= {"k": K} if "TopK" in name else {}
        (place / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128}}))
        # load_dictionary rescales AutoEncoder to unit rows: the class itself is the definition.
        loaded = made if name == "AutoEncoder" else load_dictionary(str(place), "cpu")[0]

        @torch.no_grad()
        def forward(r_ND: Tensor, loaded=loaded) -> tuple[Tensor, Tensor]:
            f_NF = loaded.encode(r_ND)
            return f_NF, loaded.decode(f_NF)

        yield f"dictionary_learning {name}", "dictionary_learning", place, forward


# --- made here, loaded there


def published(architecture: str) -> SparseAutoencoder:
    """An SAE of ours with random weights."""
    generator = torch.Generator().manual_seed(11)
    W_FD = torch.randn(F, D, generator=generator)
    thresholds = {"relu_l1": torch.zeros(F), "topk": torch.zeros(F), "batch_topk": torch.full((F,), 4.0)}
    weights = {
        "W_enc_FD": W_FD + 0.3 * torch.randn(F, D, generator=generator), "b_enc_F": 0.3 * torch.randn(F, generator=generator),
        "W_dec_FD": W_FD / W_FD.norm(dim=1, keepdim=True), "b_dec_D": torch.randn(D, generator=generator),
        "threshold_F": thresholds.get(architecture, 2 + 4 * torch.rand(F, generator=generator)),
        "mean_D": 2 * torch.randn(D, generator=generator),
    }  # fmt: skip
    return SparseAutoencoder(weights, {"architecture": architecture, "k": K, "scale": 0.37, "n_features": F, "d_model": D})


def written(folder: Path) -> Iterator[tuple[str, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """(name, r, ours, theirs) for every architecture and writer."""
    import sae_lens
    from sparsify import SparseCoder

    r_ND = activations()
    for architecture in ("relu_l1", "topk", "batch_topk", "jumprelu", "gated", "matryoshka"):
        sae = published(architecture)
        ours = (sae.encode(r_ND), sae.reconstruct(r_ND))
        write_saelens(from_published(sae), folder / architecture)
        yield f"{architecture} -> SAELens", r_ND, ours, forward_of(sae_lens.SAE.load_from_disk(folder / architecture))(r_ND)
        if architecture == "topk":
            write_sparsify(from_published(sae), folder / "sparsify")
            coder = SparseCoder.load_from_disk(folder / "sparsify")
            yield "topk -> sparsify", r_ND, ours, sparsify_forward(coder, F)(r_ND)


# --- comparison


def difference(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Largest difference of f and of the reconstruction, relative to the largest value."""
    return tuple(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))  # pyright: ignore


def main(export: str | None) -> int:
    """Print one line per case; returns the number of cases above the bound."""
    rows: list[tuple[str, float, float]] = []
    r_ND = activations()
    with tempfile.TemporaryDirectory() as scratch:
        for cases in (saelens_cases, gemma_scope_cases, sparsify_cases, dictionary_cases):
            for name, format, place, forward in cases(Path(scratch) / cases.__name__):
                theirs, raw = forward(r_ND), read_sae(format, place)
                f_NF, r_hat_ND = raw.forward(r_ND)
                rows.append((f"{name}: read", *difference((f_NF.float(), r_hat_ND.float()), theirs)))
                sae = to_published(raw, 0.6, r_ND.mean(0), {})
                unit_F = raw.W_dec_FD.norm(dim=1) * (0.6 if raw.token_norm == "none" else 1.0)
                rows.append((f"{name}: in a study", *difference((sae.encode(r_ND) / unit_F, sae.reconstruct(r_ND)), theirs)))
        for name, _, ours, theirs in written(Path(scratch) / "written"):
            rows.append((name, *difference(ours, theirs)))
        if export is not None:
            import sae_lens

            raw, sae = read_sae("saelens", export), sae_lens.SAE.load_from_disk(export)
            spread = raw.b_dec_D.std()
            r_ND = raw.b_dec_D + spread * torch.randn(N, raw.d_model, generator=torch.Generator().manual_seed(1))
            ours = tuple(value.float() for value in raw.forward(r_ND))
            rows.append((f"exported SAE of {raw.n_features} features -> SAELens", *difference(ours, forward_of(sae)(r_ND))))
    for name, f, r_hat in rows:
        print(f"{'ok ' if max(f, r_hat) <= BOUND else 'OFF'} f {f:.1e}  reconstruction {r_hat:.1e}  {name}")
    worst = max(max(f, r_hat) for _, f, r_hat in rows)
    n_off = sum(max(f, r_hat) > BOUND for _, f, r_hat in rows)
    print(f"{len(rows)} cases, {n_off} above {BOUND:.0e}, worst {worst:.1e}")
    return n_off


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
