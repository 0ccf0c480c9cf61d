"""SAELens: `cfg.json` and `sae_weights.safetensors` (versions 2 to 6), inference and training checkpoints.

    x = normalise(r) - b_dec (if apply_b_dec_to_input);  z = x W_enc + b_enc;  f = act(z);  r_hat = denormalise(f W_dec + b_dec)
    standard: relu        jumprelu: relu(z) where z > threshold        topk: relu of the k largest
    gated: relu(exp(r_mag) x W_enc + b_mag) where x W_enc + b_gate > 0
    batchtopk, matryoshka_batchtopk (training checkpoints): relu(z) where z > topk_threshold
`rescale_acts_by_decoder_norm`: z is multiplied by ‖W_dec,i‖ and the rows count as unit rows.

Shapes: F features, D width; W_enc is stored D x F.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.errors import UserError
from sae_pipeline.formats.checks import Tensors, check_k, field, refuse
from sae_pipeline.formats.files import read_json, read_safetensors
from sae_pipeline.formats.raw_sae import Origin, RawSae, folded
from sae_pipeline.formats.source import Source
from sae_pipeline.sae.names import Architecture
from sae_pipeline.sae.token_norm import TokenNorm

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
ARCHITECTURES: dict[str, Architecture] = {
    "standard": "relu_l1", "gated": "gated", "topk": "topk", "jumprelu": "jumprelu", "batchtopk": "batch_topk",
    "matryoshka_batchtopk": "matryoshka",
}  # fmt: skip
NORMS: dict[str, TokenNorm] = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
INFERENCE_KEYS = {
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations", "reshape_activations",
    "metadata", "k", "rescale_acts_by_decoder_norm",
}  # fmt: skip
OLD_KEYS = {"activation_fn", "activation_fn_kwargs", "finetuning_scaling_factor"}
OLD_NAMES = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}


def read_saelens(source: Source) -> RawSae:
    """Read one SAE. Raises `UserError` with file, key and mend for whatever cannot be taken as it is."""
    file = source.file(CONFIG)
    found = read_json(file)
    d_in, d_sae = (field(found, file, key, int) for key in ("d_in", "d_sae"))
    config = _one_version(found, file)
    about: Mapping[str, Any] = config["metadata"]
    name = config["architecture"]
    if name not in ARCHITECTURES:
        kind = "a transcoder, which maps one place to another" if "transcoder" in name else "no SAE that this project can express"
        raise refuse(file, f"architecture {name!r} is {kind}", f"Readable: {', '.join(ARCHITECTURES)}.")
    if about.get("hook_head_index") is not None or config.get("reshape_activations") not in (None, "none"):
        raise refuse(file, "the SAE reads attention heads (hook_z)", "Use one on the residual stream or the MLP's output.")

    weights = Tensors(source.weights(WEIGHTS), read_safetensors(source.weights(WEIGHTS)), D=d_in, F=d_sae)
    notes: list[str] = list(config["notes"])
    W_enc_FD, W_dec_FD, b_dec_D = weights.take("W_enc", "DF").T, weights.take("W_dec", "FD"), weights.take("b_dec", "D")
    threshold_F = torch.zeros(d_sae)
    if name == "gated":
        b_gate_F, b_enc_F, r_mag_F = (weights.take(key, "F") for key in ("b_gate", "b_mag", "r_mag"))
        # x W + b_gate > 0 says the same about the magnitude's pre-activation z = exp(r) x W + b_mag: z > b_mag - exp(r) b_gate.
        W_enc_FD, threshold_F = W_enc_FD * r_mag_F.exp()[:, None], b_enc_F - r_mag_F.exp() * b_gate_F
    else:
        b_enc_F = weights.take("b_enc", "F")
    if name == "jumprelu":
        threshold_F = weights.take("log_threshold", "F").exp() if weights.has("log_threshold") else weights.take("threshold", "F")
    elif name in ("batchtopk", "matryoshka_batchtopk"):
        threshold_F = weights.take("topk_threshold", "").expand(d_sae).clone()
        notes.append(f"training checkpoint of {name}: active above its topk_threshold {float(threshold_F[0]):.4g}")
    if config.get("rescale_acts_by_decoder_norm"):
        norm_F = W_dec_FD.norm(dim=1).clamp(min=1e-30)
        W_enc_FD, b_enc_F, W_dec_FD = W_enc_FD * norm_F[:, None], b_enc_F * norm_F, W_dec_FD / norm_F[:, None]
    W_dec_FD = _finetuned(weights, W_dec_FD, config, file, notes)
    weights.finish()

    if field(config, file, "apply_b_dec_to_input", bool):
        b_enc_F = folded(b_enc_F, W_enc_FD, b_dec_D)
    norm = config.get("normalize_activations") or "none"
    if norm == "expected_average_only_in":
        scale = _input_scale(source, file)
        notes.append(f"input scale {scale:.6g} folded into the weights (expected_average_only_in)")
        W_enc_FD, W_dec_FD, b_dec_D, norm = W_enc_FD * scale, W_dec_FD / scale, b_dec_D / scale, "none"
    elif source.input_scale is not None:
        raise refuse(file, f"normalize_activations = {norm!r}, so input_scale has no meaning", "Leave input_scale out.")
    elif norm not in NORMS:
        raise refuse(file, f"normalize_activations = {norm!r} is not folded into the weights", "Fold it and save again.")
    trained_as = about.get("training_architecture") or name
    return RawSae(
        architecture=ARCHITECTURES.get(trained_as, ARCHITECTURES[name]) if name == "jumprelu" else ARCHITECTURES[name],
        W_enc_FD=W_enc_FD.contiguous(), b_enc_F=b_enc_F, W_dec_FD=W_dec_FD.contiguous(), b_dec_D=b_dec_D,
        threshold_F=threshold_F, k=check_k(file, config.get("k"), d_sae) if name == "topk" else None, token_norm=NORMS[norm],
        origin=Origin(
            "saelens", source.label, about.get("model_name"), about.get("hook_name"), about.get("context_size"),
            about.get("prepend_bos"), about.get("training_tokens"), weights.dtype, tuple(notes),
        ),
    )  # fmt: skip


def _one_version(found: dict[str, Any], file: Path) -> dict[str, Any]:
    """The configuration in the spelling of version 6: what changes the computation at the top, the rest in `metadata`."""
    if isinstance(found.get("metadata"), dict):
        if unknown := sorted(set(found) - INFERENCE_KEYS):
            if found.get("architecture") not in ("batchtopk", "matryoshka_batchtopk") and "decoder_init_norm" not in found:
                raise refuse(file, f"has keys that are not known: {', '.join(unknown)}", "They may change what the SAE computes.")
            return {**found, "notes": [f"training settings not used: {', '.join(unknown)}"]}
        return {**found, "notes": []}
    old = {OLD_NAMES.get(key, key): value for key, value in found.items()}
    activation = old.get("activation_fn", "relu")
    arguments = old.get("activation_fn_kwargs") or {}
    if activation not in ("relu", "topk"):
        raise refuse(file, f"activation_fn = {activation!r} is neither relu nor topk", "Use an SAE with one of these.")
    if activation == "topk":
        old |= {"architecture": "topk", "k": arguments.get("k")}
    norm = old.get("normalize_activations")
    if isinstance(norm, bool):
        norm = "expected_average_only_in" if norm else "none"
    defaults = {"architecture": "standard", "apply_b_dec_to_input": True}  # what these versions did when the key was absent
    told = [f"{key} is not in cfg.json: {value} as in those versions" for key, value in defaults.items() if key not in old]
    metadata = {key: old.get(key) for key in ("model_name", "hook_name", "hook_head_index", "context_size", "training_tokens")}
    metadata["prepend_bos"] = old.get("prepend_bos", True)
    if "prepend_bos" not in old:
        told.append("prepend_bos is not in cfg.json: true as in those versions")
    # These versions wrote their whole training configuration into the file: nothing to refuse, but nothing unsaid either.
    if unused := sorted(set(old) - INFERENCE_KEYS - OLD_KEYS - set(metadata)):
        told.append(f"training settings not used: {', '.join(unused)}")
    return {**defaults, **old, "normalize_activations": norm, "metadata": metadata, "notes": told}


def _finetuned(weights: Tensors, W_dec_FD: Tensor, config: Mapping[str, Any], file: Path, notes: list[str]) -> Tensor:
    """Old files may carry a factor per feature that is applied to f before decoding."""
    if not weights.has("scaling_factor"):
        return W_dec_FD
    factor_F = weights.take("scaling_factor", "F")
    if torch.allclose(factor_F, torch.ones_like(factor_F)):
        return W_dec_FD
    if not config.get("finetuning_scaling_factor"):
        what = "key scaling_factor is not 1, but finetuning_scaling_factor is not set"
        raise refuse(weights.file, what, f"Set it to true or false in {file}, or remove the key.")
    notes.append("scaling_factor (finetuning) multiplied into the decoder rows")
    return W_dec_FD * factor_F[:, None]


def _input_scale(source: Source, file: Path) -> float:
    scaler = source.folder / SCALER
    found = source.input_scale
    if found is None and scaler.is_file():
        found = read_json(scaler).get("scaling_factor")
    if not isinstance(found, int | float) or not found > 0:
        raise UserError(
            str(file), f"normalize_activations = expected_average_only_in, and no {SCALER} holds the factor",
            "Give it as input_scale (--input-scale): sqrt(d_in) / mean norm of its training activations.",
        )  # fmt: skip
    return float(found)
