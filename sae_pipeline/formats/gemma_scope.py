"""Gemma Scope 1 (`params.npz`) and 2 (`config.json` and `params.safetensors`): JumpReLU, thresholds in raw units.

    z = r W_enc + b_enc;  f = relu(z) where z > threshold;  r_hat = f W_dec + b_dec        b_dec is not subtracted first

Version 1 has no configuration: model, site and layer are in the names of repository and folder, such as
`google/gemma-scope-2b-pt-res` and `layer_12/width_16k/average_l0_82`. Shapes: F features, D width; W_enc is stored D x F.
"""

import re

from sae_pipeline.formats.checks import Tensors, refuse
from sae_pipeline.formats.files import read_json, read_npz, read_safetensors
from sae_pipeline.formats.raw_sae import Origin, RawSae
from sae_pipeline.formats.source import Source

WEIGHTS_1, WEIGHTS_2, CONFIG_2 = "params.npz", "params.safetensors", "config.json"
SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
CONTEXT = 1024  # of both releases, with a BOS before every sequence


def read_gemma_scope(source: Source) -> RawSae:
    """Read version 1."""
    file = source.weights(WEIGHTS_1)
    if "transcoder" in source.label:
        raise refuse(file, "the name says transcoder, which maps one place to another", "Use a -res or -mlp release.")
    if re.search(r"(^|/)embedding(/|$)", source.label):
        raise refuse(file, "the SAE reads embeddings, which are the output of no block", "Use one of a layer.")
    weights = Tensors(file, read_npz(file))
    model, hook = _named(source.label)
    return _jumprelu(weights, "W_enc", "W_dec", Origin("gemma_scope", source.label, model, hook, CONTEXT, True))


def read_gemma_scope_2(source: Source) -> RawSae:
    """Read version 2."""
    file = source.file(CONFIG_2)
    config = read_json(file)
    if config.get("architecture") != "jump_relu":
        raise refuse(
            file,
            f"architecture = {config.get('architecture')!r}, expected 'jump_relu'",
            "Check that the format is the right one.",
        )
    hook = config.get("hf_hook_point_in")
    if config.get("hf_hook_point_out", hook) not in (hook, None) or config.get("affine_connection"):
        raise refuse(file, "the file is a transcoder, which maps one place to another", "Use one of resid_post or mlp_out.")
    weights_file = source.weights(WEIGHTS_2)
    weights = Tensors(weights_file, read_safetensors(weights_file), F=config.get("width"))
    if weights.has("affine_skip_connection"):
        raise refuse(weights_file, "key affine_skip_connection: a skip transcoder", "Use an SAE.")
    origin = Origin("gemma_scope_2", source.label, config.get("model_name"), hook, CONTEXT, True)
    return _jumprelu(weights, "w_enc", "w_dec", origin)


def _jumprelu(weights: Tensors, encoder: str, decoder: str, origin: Origin) -> RawSae:
    W_enc_DF, W_dec_FD = weights.take(encoder, "DF"), weights.take(decoder, "FD")
    b_enc_F, b_dec_D, threshold_F = weights.take("b_enc", "F"), weights.take("b_dec", "D"), weights.take("threshold", "F")
    weights.finish()
    origin = Origin(**{**vars(origin), "dtype": weights.dtype})
    return RawSae("jumprelu", W_enc_DF.T.contiguous(), b_enc_F, W_dec_FD, b_dec_D, threshold_F, origin)


def _named(label: str) -> tuple[str | None, str | None]:
    """(model, hook) as the names of repository and folder tell them; None for what they do not."""
    repository = re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)", label)
    layer = re.search(r"layer_(\d+)", label)
    model = f"google/gemma-2-{repository[1]}{'-it' if repository[2] == 'it' else ''}" if repository else None
    return model, f"blocks.{layer[1]}.{SITES[repository[3]]}" if repository and layer else None
