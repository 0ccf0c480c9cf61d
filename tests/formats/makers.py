"""Random SAEs written in every format, each with a forward pass of its own: NumPy, float64, from the format's definition.

A maker writes files into a folder and returns `forward(r) -> (f, r_hat)` on raw activations. Nothing here uses the readers.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

D, F, K = 20, 64, 6
Forward = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def relu(z: np.ndarray) -> np.ndarray:
    return np.maximum(z, 0)


def largest(z: np.ndarray, k: int) -> np.ndarray:
    """1 at the k largest entries of each row."""
    kept = np.zeros_like(z)
    np.put_along_axis(kept, np.argsort(-z, axis=1)[:, :k], 1, axis=1)
    return kept


def parts(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def wide(W: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float64) for name, value in W.items()}


def activations(n: int = 50, seed: int = 9, d: int = D) -> np.ndarray:
    """Raw activations far from the origin, of unequal norms."""
    generator = np.random.default_rng(seed)
    r = generator.normal(size=(n, d)) * (0.5 + 3 * generator.random((n, 1))) + generator.normal(size=d)
    return r.astype(np.float32).astype(np.float64)


def write(folder: Path, weights: str, tensors: dict[str, np.ndarray], config: str = "", values: dict | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.copy(order="C") for name, value in tensors.items()}, folder / weights)
    if config:
        (folder / config).write_text(json.dumps(values), encoding="utf-8")


# --- SAELens


def saelens(folder: Path, architecture: str, subtract: bool = True, norm: str = "none", **more) -> Forward:
    """`more`: rescale=True (ranks and thresholds by the decoder's norms), log=True (old threshold key), metadata={...}."""
    W = parts(1, W_enc=(D, F), W_dec=(F, D), b_dec=(D,))
    extra: dict = {}
    if architecture == "gated":
        W |= parts(2, b_gate=(F,), b_mag=(F,), r_mag=(F,))
        W["r_mag"] *= 0.3
    else:
        W |= parts(2, b_enc=(F,))
    if architecture == "jumprelu":
        W["threshold"] = parts(3, t=(F,))["t"] + 1
    if "batchtopk" in architecture:
        extra = {"k": 6.0, "rescale_acts_by_decoder_norm": more.get("rescale", False), "decoder_init_norm": 0.1}
    if architecture == "topk":
        extra = {"k": K, "rescale_acts_by_decoder_norm": more.get("rescale", False)}
    stored = dict(W)
    if more.get("log"):
        stored["log_threshold"] = np.log(np.abs(stored.pop("threshold")) + 0.1)
        W["threshold"] = np.exp(stored["log_threshold"].astype(np.float64))
    if "batchtopk" in architecture:
        stored["topk_threshold"] = np.array(2.5)
    config = {
        "architecture": architecture, "d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": subtract, "normalize_activations": norm, "reshape_activations": "none", **extra,
        "metadata": {
            "sae_lens_version": "6.12.0", "model_name": "gpt2", "hook_name": "blocks.1.hook_resid_post", "context_size": 128,
            "prepend_bos": True, **more.get("metadata", {}),
        },
    }  # fmt: skip
    write(folder, "sae_weights.safetensors", stored, "cfg.json", config)
    return lambda r: saelens_forward(wide(W), architecture, subtract, norm, more.get("rescale", False), r)


def saelens_forward(W: dict, architecture: str, subtract: bool, norm: str, rescale: bool, r: np.ndarray, scale: float = 1.0):
    x, back = r * scale, lambda y: y / scale
    if norm == "layer_norm":
        mu = r.mean(1, keepdims=True)
        std = (r - mu).std(1, ddof=1, keepdims=True)
        x, back = (r - mu) / (std + 1e-5), lambda y: y * std + mu
    elif norm == "constant_norm_rescale":
        c = np.sqrt(D) / np.linalg.norm(r, axis=1, keepdims=True)
        x, back = r * c, lambda y: y / c
    x = x - W["b_dec"] * subtract
    if architecture == "gated":
        active = (x @ W["W_enc"] + W["b_gate"] > 0).astype(float)
        f = active * relu(x @ (W["W_enc"] * np.exp(W["r_mag"])) + W["b_mag"])
        return f, back(f @ W["W_dec"] + W["b_dec"])
    z = x @ W["W_enc"] + W["b_enc"]
    rows = W["W_dec"]
    if rescale:
        z, rows = z * np.linalg.norm(rows, axis=1), rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if architecture == "topk":
        f = relu(z) * largest(z, K)
    elif architecture == "standard":
        f = relu(z)
    else:
        f = relu(z) * (z > (2.5 if "batchtopk" in architecture else W["threshold"]))
    return f, back(f @ rows + W["b_dec"])


def saelens_old(folder: Path, topk: bool = False, **config) -> Forward:
    """A version 2-5 file: flat configuration, no `metadata`, keys of their time."""
    W = parts(4, W_enc=(D, F), W_dec=(F, D), b_dec=(D,), b_enc=(F,))
    values = {
        "model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "d_in": D, "d_sae": F,
        "context_size": 64, "l1_coefficient": 8e-5, "lr": 4e-4, "dtype": "float32", **config,
    }  # fmt: skip
    if topk:
        values |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    stored = W | {"scaling_factor": np.ones(F, np.float32)}
    write(folder, "sae_weights.safetensors", stored, "cfg.json", values)
    return lambda r: saelens_forward(wide(W), "topk" if topk else "standard", True, "none", False, r)


# --- Gemma Scope


def gemma_scope(folder: Path) -> Forward:
    W = parts(5, W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,), threshold=(F,))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **W)  # pyright: ignore[reportArgumentType]
    return lambda r: saelens_forward(wide(W), "jumprelu", False, "none", False, r)


def gemma_scope_2(folder: Path, **config) -> Forward:
    W = parts(6, W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,), threshold=(F,))
    values = {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.9.output", "model_name": "gemma-3-1b-pt", **config}
    stored = {"w_enc": W["W_enc"], "w_dec": W["W_dec"], "b_enc": W["b_enc"], "b_dec": W["b_dec"], "threshold": W["threshold"]}
    write(folder, "params.safetensors", stored, "config.json", values)
    return lambda r: saelens_forward(wide(W), "jumprelu", False, "none", False, r)


# --- sparsify


def sparsify(folder: Path, n: int = F, **config) -> Forward:
    W = parts(7, **{"encoder.weight": (n, D), "encoder.bias": (n,), "W_dec": (n, D), "b_dec": (D,)})
    values = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": n, "k": K, "multi_topk": False,
        "skip_connection": False, "transcode": False, "d_in": D, **config,
    }  # fmt: skip
    write(folder, "sae.safetensors", W, "cfg.json", values)

    def forward(r: np.ndarray):
        V = wide(W)
        z = relu((r - V["b_dec"]) @ V["encoder.weight"].T + V["encoder.bias"])
        f = z * largest(z, K)
        return f, f @ V["W_dec"] + V["b_dec"]

    return forward


# --- dictionary_learning


def dictionary_learning(folder: Path, name: str, **trainer) -> Forward:
    if name in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        W = parts(8, W_enc=(D, F), W_dec=(F, D), b_enc=(F,), b_dec=(D,))
        encoder, decoder = "W_enc", "W_dec"
    else:
        W = parts(8, **{"encoder.weight": (F, D), "decoder.weight": (D, F)})
        encoder, decoder = "encoder.weight", "decoder.weight"
        if name == "GatedAutoEncoder":
            W |= parts(10, decoder_bias=(D,), r_mag=(F,), gate_bias=(F,), mag_bias=(F,))
        else:
            bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(name, "b_dec")
            W |= parts(10, **{"encoder.bias": (F,), bias: (D,)})
    state = {key: torch.from_numpy(value) for key, value in W.items()}
    if "TopK" in name:
        state |= {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(1.75)}
    if "Matryoshka" in name:
        state["group_sizes"] = torch.tensor([F // 4, F - F // 4])
    if name == "JumpReluAutoEncoder":
        state["threshold"] = torch.from_numpy(parts(11, t=(F,))["t"] + 0.5)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    config = {
        "trainer": {
            "dict_class": name, "activation_dim": D, "dict_size": F, "lr": 1e-3, "layer": 3,
            "submodule_name": "resid_post_layer_3",
            "lm_name": "EleutherAI/pythia-70m-deduped", **({"k": K} if "TopK" in name else {}), **trainer,
        },
        "buffer": {"d_submodule": D, "io": "out", "n_ctxs": 3000, "ctx_len": 128},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def forward(r: np.ndarray):
        V = wide(W)
        rows = V[decoder] if decoder == "W_dec" else V[decoder].T
        matrix = V[encoder] if encoder == "W_enc" else V[encoder].T
        if name == "GatedAutoEncoder":
            u = (r - V["decoder_bias"]) @ matrix
            f = relu(np.exp(V["r_mag"]) * u + V["mag_bias"]) * (u + V["gate_bias"] > 0)
            return f, f @ rows + V["decoder_bias"]
        b_dec = next(V[key] for key in ("b_dec", "bias", "decoder.bias") if key in V)
        subtract = name not in ("AutoEncoderNew", "JumpReluAutoEncoder")
        z = (r - b_dec * subtract) @ matrix + V.get("b_enc", V.get("encoder.bias"))
        if name == "AutoEncoderTopK":
            f = relu(z) * largest(relu(z), K)
        elif name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            f = relu(z) * (relu(z) > 1.75)
        elif name == "JumpReluAutoEncoder":
            f = relu(z * (z > state["threshold"].double().numpy()))
        else:
            f = relu(z)
        return f, f @ rows + b_dec

    return forward


# --- OpenAI


def openai(file: Path, activation: str = "TopK") -> Forward:
    W = parts(12, **{"pre_bias": (D,), "encoder.weight": (F, D), "latent_bias": (F,), "decoder.weight": (D, F)})
    state: dict = {key: torch.from_numpy(value) for key, value in W.items()}
    state |= {"stats_last_nonzero": torch.zeros(F, dtype=torch.long), "activation": activation}
    if activation == "TopK":
        state["activation_state_dict"] = {"k": K, "postact_fn": "ReLU"}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)

    def forward(r: np.ndarray):
        V = wide(W)
        mu = r.mean(1, keepdims=True) if activation == "TopK" else 0.0
        std = (r - mu).std(1, ddof=1, keepdims=True) if activation == "TopK" else 1.0
        x = (r - mu) / (std + 1e-5) if activation == "TopK" else r
        z = (x - V["pre_bias"]) @ V["encoder.weight"].T + V["latent_bias"]
        f = relu(z) * largest(z, K) if activation == "TopK" else relu(z)
        return f, (f @ V["decoder.weight"].T + V["pre_bias"]) * std + mu

    return forward


def truncate(file: Path) -> None:
    """The first half of the file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def npz_with_objects(file: Path) -> None:
    """An archive whose `b_enc` is an array of Python objects, as numpy itself would pickle it."""
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("W_enc", "b_enc"):
            with archive.open(f"{name}.npy", "w") as stream:
                value = np.array([{"a": 1}], dtype=object) if name == "b_enc" else np.zeros((2, 2), np.float32)
                np.lib.format.write_array(stream, value, allow_pickle=True)
