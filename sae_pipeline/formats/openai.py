"""OpenAI's `sparse_autoencoder`: one `.pt` file, a state dict loaded with weights only.

    x = r, or with TopK (r - mean over D) / (std over D + 1e-5);  z = encoder.weight (x - pre_bias) + latent_bias
    f = relu(z), or relu of the k largest;  r_hat = decoder.weight f + pre_bias, times std plus mean with TopK

`activation` and `activation_state_dict` stand beside the tensors. encoder.weight is F x D, decoder.weight D x F.
Shapes: F features, D width.
"""

from pathlib import Path

import torch

from sae_pipeline.errors import UserError
from sae_pipeline.formats.checks import Tensors, check_k, refuse
from sae_pipeline.formats.files import read_pt
from sae_pipeline.formats.raw_sae import Origin, RawSae, folded
from sae_pipeline.formats.source import Source

STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


def read_openai(source: Source) -> RawSae:
    """Read one file. Nothing in it says model, hook, context or BOS."""
    file = source.only or _the_only_one(source.folder)
    found = read_pt(file)
    activation, arguments = found.pop("activation", "ReLU"), found.pop("activation_state_dict", {})
    if activation not in ("ReLU", "TopK"):
        raise refuse(file, f"key activation = {activation!r} is neither ReLU nor TopK", "Use an SAE with one of these.")
    topk = activation == "TopK"
    if topk and arguments.get("postact_fn", "ReLU") != "ReLU":
        what = f"key postact_fn = {arguments['postact_fn']!r}: activations may be negative"
        raise refuse(file, what, "Use an SAE with ReLU after the top-k.")
    weights = Tensors(file, found)
    W_enc_FD, W_dec_DF = weights.take("encoder.weight", "FD"), weights.take("decoder.weight", "DF")
    b_enc_F, b_dec_D = weights.take("latent_bias", "F"), weights.take("pre_bias", "D")
    weights.drop(*STATISTICS)
    weights.finish()
    notes = ("every token is normalised by itself (TopK implies it)",) if topk else ()
    return RawSae(
        "topk" if topk else "relu_l1", W_enc_FD, folded(b_enc_F, W_enc_FD, b_dec_D), W_dec_DF.T.contiguous(), b_dec_D,
        torch.zeros(weights.size("F")), Origin("openai", source.label, dtype=weights.dtype, notes=notes),
        k=check_k(file, arguments.get("k"), weights.size("F")) if topk else None, token_norm="layer_norm" if topk else "none",
    )  # fmt: skip


def _the_only_one(folder: Path) -> Path:
    files = sorted(folder.glob("*.pt"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(str(folder), f"holds {len(files)} .pt files ({found}), expected one", "Give the path of the file itself.")
    return files[0]
