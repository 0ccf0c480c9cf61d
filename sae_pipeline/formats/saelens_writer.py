"""Write SAELens files (`cfg.json`, `sae_weights.safetensors`), which SAELens, SAEBench and their users load.

Top-k stays `topk`; features active above 0 make a `standard` SAE; every other set of thresholds is a `jumprelu` one. b_dec is not
subtracted by the encoder (`apply_b_dec_to_input: false`): the export rule has folded it.
"""

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sae_pipeline.formats.hooks import hook_of, names_of
from sae_pipeline.formats.raw_sae import RawSae
from sae_pipeline.formats.saelens import ARCHITECTURES, CONFIG, NORMS, WEIGHTS

FORMAT_VERSION = "6.0.0"
"""The version of SAELens whose layout this is."""
TRAINED_AS = {ours: theirs for theirs, ours in ARCHITECTURES.items()}


def write_saelens(raw: RawSae, folder: Path) -> list[str]:
    """Write `raw`; returns the file names."""
    above_zero = bool((raw.threshold_F > 0).any())
    architecture = "topk" if raw.k is not None else "jumprelu" if above_zero else "standard"
    tensors = {"W_enc": raw.W_enc_FD.T, "b_enc": raw.b_enc_F, "W_dec": raw.W_dec_FD, "b_dec": raw.b_dec_D}
    if architecture == "jumprelu":
        tensors["threshold"] = raw.threshold_F.clamp(min=0)
    topk = {"k": raw.k, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}
    config = {
        "architecture": architecture, "d_in": raw.d_model, "d_sae": raw.n_features, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": {ours: theirs for theirs, ours in NORMS.items()}[raw.token_norm],
        "reshape_activations": "none", **topk, "metadata": _metadata(raw),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return [WEIGHTS, CONFIG]


def _metadata(raw: RawSae) -> dict[str, Any]:
    """What is known; a key that is not known is left out, so that nobody reads a guess."""
    said = raw.origin.hook
    hook = hook_of(said) if said else None
    is_module = said is not None and re.match(r"\w+(\.\w+)*\.(layers|h)\.\d+", said) is not None  # the model's own name
    known = {
        "model_name": raw.origin.model, "hook_name": names_of(hook).transformer_lens if hook else said,
        "hf_hook_name": said if is_module else None, "context_size": raw.origin.context,
        "prepend_bos": raw.origin.bos, "training_tokens": raw.origin.n_tokens_trained,
        "training_architecture": TRAINED_AS[raw.architecture], "sae_lens_version": FORMAT_VERSION,
    }  # fmt: skip
    return {key: value for key, value in known.items() if value is not None}
