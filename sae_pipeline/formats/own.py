"""Our own format: `weights.safetensors` and `config.json`, the published form (`sae_pipeline.sae.autoencoder`)."""

import json
from pathlib import Path

from sae_pipeline.formats.checks import Tensors, field
from sae_pipeline.formats.files import read_json, read_safetensors
from sae_pipeline.formats.hooks import names_of
from sae_pipeline.formats.published import from_published, to_published
from sae_pipeline.formats.raw_sae import Origin, RawSae
from sae_pipeline.formats.source import Source
from sae_pipeline.sae.autoencoder import CONFIG, WEIGHTS, SparseAutoencoder
from sae_pipeline.study_inputs import Hook

SHAPES = {"W_enc_FD": "FD", "b_enc_F": "F", "W_dec_FD": "FD", "b_dec_D": "D", "threshold_F": "F", "mean_D": "D"}


def read_own(source: Source) -> RawSae:
    """Read one SAE of this project as raw weights."""
    return from_published(load_own(source), own_origin(source.file(CONFIG), source.label))


def load_own(source: Source) -> SparseAutoencoder:
    """The published form itself, every tensor checked."""
    config_file, file = source.file(CONFIG), source.weights(WEIGHTS)
    config = read_json(config_file)
    n_features, d_model = (field(config, config_file, key, int) for key in ("n_features", "d_model"))
    field(config, config_file, "scale", float)
    field(config, config_file, "architecture", str)
    weights = Tensors(file, read_safetensors(file), F=n_features, D=d_model)
    tensors = {name: weights.take(name, shape) for name, shape in SHAPES.items()}
    if weights.has("rank_F"):
        tensors["rank_F"] = weights.take("rank_F", "F")
    weights.finish()
    return SparseAutoencoder(tensors, config)


def own_origin(config_file: Path, label: str) -> Origin:
    """What `config.json` says about model, hook, context and BOS."""
    config = read_json(config_file)
    model, hook = config.get("model") or {}, config.get("hook")
    return Origin(
        "own", label, model.get("id") or model.get("path") or model.get("file"),
        names_of(Hook(**hook)).transformer_lens if hook else None, config.get("context"),
        config["bos"] == "prepend" if "bos" in config else None, config.get("n_tokens_trained"),
    )  # fmt: skip


def write_own(raw: RawSae, folder: Path) -> list[str]:
    """Write the published form with scale 1 and mean 0: f is f_raw ‖W_dec,i‖. Model, hook, context and BOS as the file said."""
    from sae_pipeline.formats.hooks import hook_of

    hook = hook_of(raw.origin.hook) if raw.origin.hook else None
    config = {
        "imported": {"format": raw.origin.format, "from": raw.origin.where, "model": raw.origin.model, "hook": raw.origin.hook},
        "n_tokens_trained": raw.origin.n_tokens_trained,
        **({"context": raw.origin.context} if raw.origin.context else {}),
        **({"bos": "prepend" if raw.origin.bos else "none"} if raw.origin.bos is not None else {}),
        **({"hook": hook.model_dump(mode="json")} if hook else {}),
    }  # fmt: skip
    to_published(raw, 1.0, raw.b_dec_D.new_zeros(raw.d_model), json.loads(json.dumps(config))).save(folder)
    return [WEIGHTS, CONFIG]
