"""dictionary_learning: `ae.pt` (a state dict, loaded with weights only) and `config.json`.

    AutoEncoder              f = relu(encoder(r - bias));  r_hat = decoder(f) + bias
    AutoEncoderNew           f = relu(encoder(r));  r_hat = decoder(f), which has a bias of its own
    GatedAutoEncoder         u = (r - decoder_bias) W^T;  f = relu(exp(r_mag) u + mag_bias) where u + gate_bias > 0
    AutoEncoderTopK          f = the k largest of relu(encoder(r - b_dec))
    BatchTopKSAE             f = relu(encoder(r - b_dec)) where it is above `threshold`
    MatryoshkaBatchTopKSAE   the same with W_enc, W_dec as in SAELens
    JumpReluAutoEncoder      f = relu(r W_enc + b_enc) where it is above `threshold`; b_dec is not subtracted

encoder.weight is F x D, decoder.weight D x F. Activation norms are folded into the biases before the library saves.
Shapes: F features, D width.
"""

from pathlib import Path
from typing import Any

import torch

from sae_pipeline.formats.checks import Tensors, check_k, field, refuse
from sae_pipeline.formats.files import read_json, read_pt
from sae_pipeline.formats.raw_sae import Origin, RawSae, folded
from sae_pipeline.formats.source import Source
from sae_pipeline.sae.names import Architecture

CONFIG, WEIGHTS = "config.json", "ae.pt"
CLASSES: dict[str, Architecture] = {
    "AutoEncoder": "relu_l1", "AutoEncoderNew": "relu_l1", "GatedAutoEncoder": "gated", "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch_topk", "MatryoshkaBatchTopKSAE": "matryoshka", "JumpReluAutoEncoder": "jumprelu",
}  # fmt: skip


def read_dictionary_learning(source: Source) -> RawSae:
    """Read one dictionary. Raises `UserError` with file, key and mend for whatever cannot be taken as it is."""
    file = source.file(CONFIG)
    config = read_json(file)
    trainer = field(config, file, "trainer", dict)
    name = field(trainer, file, "dict_class", str)
    if name not in CLASSES:
        raise refuse(file, f"dict_class = {name!r} is not known", f"Readable: {', '.join(CLASSES)}.")
    weights_file = source.weights(WEIGHTS)
    found = read_pt(weights_file)
    k = found.pop("k", None)
    weights = Tensors(weights_file, found, D=trainer.get("activation_dim"), F=trainer.get("dict_size"))
    if name in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        W_enc_FD, W_dec_FD = weights.take("W_enc", "DF").T.contiguous(), weights.take("W_dec", "FD")
        b_enc_F, b_dec_D = weights.take("b_enc", "F"), weights.take("b_dec", "D")
        weights.drop("group_sizes")
    else:
        W_enc_FD, W_dec_FD = weights.take("encoder.weight", "FD"), weights.take("decoder.weight", "DF").T.contiguous()
        b_enc_F = weights.take("mag_bias" if name == "GatedAutoEncoder" else "encoder.bias", "F")
        biases = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
        b_dec_D = weights.take(biases.get(name, "b_dec"), "D")
    threshold_F = torch.zeros(weights.size("F"))
    if name == "GatedAutoEncoder":
        gain_F, gate_F = weights.take("r_mag", "F").exp(), weights.take("gate_bias", "F")
        W_enc_FD, threshold_F = W_enc_FD * gain_F[:, None], b_enc_F - gain_F * gate_F
    elif name == "JumpReluAutoEncoder":
        threshold_F = weights.take("threshold", "F")
    elif name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        threshold = weights.take("threshold", "")
        if float(threshold) < 0:
            what = f"threshold = {float(threshold):g} was never set: the checkpoint is from before threshold_start_step"
            raise refuse(
                weights_file, what, "Use a later checkpoint; without a threshold every positive feature would be active."
            )
        threshold_F = threshold.expand(weights.size("F")).clone()
    weights.drop("threshold")  # AutoEncoderTopK keeps one beside its k; its own encode does not use it
    weights.finish()
    if name not in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        b_enc_F = folded(b_enc_F, W_enc_FD, b_dec_D)
    return RawSae(
        CLASSES[name], W_enc_FD, b_enc_F, W_dec_FD, b_dec_D, threshold_F, _origin(config, trainer, source, weights.dtype),
        k=_k(file, k, trainer.get("k"), weights.size("F")) if name == "AutoEncoderTopK" else None,
    )  # fmt: skip


def _k(file: Path, stored: Any, configured: Any, n_features: int) -> int:
    stored = int(stored) if isinstance(stored, torch.Tensor) else stored
    if None not in (stored, configured) and stored != configured:
        what = f"k = {configured} in the configuration, but {stored} in the weights"
        raise refuse(file, what, "Correct the one that is wrong.")
    return check_k(file, stored if stored is not None else configured, n_features)


def _origin(config: dict[str, Any], trainer: dict[str, Any], source: Source, dtype: str) -> Origin:
    buffer: dict[str, Any] = config.get("buffer") or {}
    layer, name, io = trainer.get("layer"), trainer.get("submodule_name"), buffer.get("io", "out")
    # By default the library reads the output of the block `layer`; other places go by a free-text name.
    readable = isinstance(layer, int) and (not name or "resid_post" in name) and io == "out"
    hook, notes = f"layers.{layer}" if readable else None, []
    if not readable:
        notes.append(f"the place cannot be read from its name (submodule_name {name!r}, layer {layer!r}, io {io!r})")
    if trainer.get("dict_class") == "AutoEncoder":
        notes.append("the library rescales f by the decoder's norms when it loads this class (normalize_decoder)")
    return Origin(
        "dictionary_learning", source.label, trainer.get("lm_name"), hook, buffer.get("ctx_len"), None, None, dtype, tuple(notes)
    )
