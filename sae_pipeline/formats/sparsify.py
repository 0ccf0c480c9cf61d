"""sparsify: `cfg.json` and `sae.safetensors` in a folder named after the hookpoint.

    z = relu((r - b_dec) encoder.weight^T + encoder.bias);  the k largest z of a token are active;  r_hat = f W_dec + b_dec

b_dec is always subtracted, `normalize_decoder` says how it was trained and changes nothing here, `W_dec` is stored F x D like
`encoder.weight`, and `num_latents: 0` means d_in times expansion_factor. Shapes: F features, D width.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sae_pipeline.errors import UserError
from sae_pipeline.formats.checks import Tensors, check_k, field, refuse
from sae_pipeline.formats.files import read_json, read_safetensors
from sae_pipeline.formats.hooks import hook_of
from sae_pipeline.formats.raw_sae import Origin, RawSae, folded
from sae_pipeline.formats.source import Source

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"


def read_sparsify(source: Source) -> RawSae:
    """Read one SAE. The run's own `config.json`, one folder up, is read for model and context where it is there."""
    file = source.file(CONFIG)
    config = read_json(file)
    if config.get("transcode"):
        raise refuse(file, "transcode: true, a transcoder maps one place to another", "Use an SAE (transcode: false).")
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        kind = "signed: true" if config.get("signed") else f"activation = {config['activation']!r}"
        raise refuse(file, f"{kind} cannot be expressed here", "Use an SAE with activation topk.")
    d_in = field(config, file, "d_in", int)
    n = field(config, file, "num_latents", int, None) or d_in * field(config, file, "expansion_factor", int)
    weights = Tensors(source.weights(WEIGHTS), read_safetensors(source.weights(WEIGHTS)), D=d_in, F=n)
    if weights.has("W_skip"):
        raise refuse(weights.file, "key W_skip: the SAE has a skip connection", "Use one without (skip_connection: false).")
    W_enc_FD, b_enc_F = weights.take("encoder.weight", "FD"), weights.take("encoder.bias", "F")
    W_dec_FD, b_dec_D = weights.take("W_dec", "FD"), weights.take("b_dec", "D")
    weights.finish()
    run = _run(source)
    hook = source.folder.name if hook_of(source.folder.name) else None
    return RawSae(
        "topk", W_enc_FD, folded(b_enc_F, W_enc_FD, b_dec_D), W_dec_FD, b_dec_D, torch.zeros(n),
        Origin("sparsify", source.label, run.get("model"), hook, run.get("ctx_len"), None, None, weights.dtype),
        k=check_k(file, config.get("k"), n),
    )  # fmt: skip


def write_sparsify(raw: RawSae, folder: Path) -> list[str]:
    """Write `raw`; returns the file names. Raises `UserError` for what sparsify cannot compute: anything but top-k."""
    if raw.k is None:
        raise UserError(
            raw.origin.where, f"is {raw.architecture}: its features have thresholds, sparsify knows top-k only",
            "Export it as saelens.",
        )  # fmt: skip
    if raw.token_norm != "none":
        raise UserError(
            raw.origin.where, f"normalises every token by itself ({raw.token_norm}); sparsify does not", "Export as saelens."
        )
    bias_F = raw.b_enc_F.double() + raw.W_enc_FD.double() @ raw.b_dec_D.double()
    tensors = {"encoder.weight": raw.W_enc_FD, "encoder.bias": bias_F.float(), "W_dec": raw.W_dec_FD, "b_dec": raw.b_dec_D}
    config = {
        "activation": "topk", "expansion_factor": max(1, raw.n_features // raw.d_model), "normalize_decoder": False,
        "num_latents": raw.n_features, "k": raw.k, "multi_topk": False, "skip_connection": False, "transcode": False,
        "d_in": raw.d_model,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return [WEIGHTS, CONFIG]


def _run(source: Source) -> dict[str, Any]:
    file = source.folder.parent / RUN
    return read_json(file) if file.is_file() else {}
