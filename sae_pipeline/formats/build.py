"""Builder of the `sae` stage when the study names SAEs made elsewhere: import one instead of training it.

Leaves what training leaves: weights, configuration and a (here empty) history; and `import.json`, the file beside the study.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from sae_pipeline import progress
from sae_pipeline.errors import UserError
from sae_pipeline.formats.compare import as_table, compare, differences
from sae_pipeline.formats.published import to_published
from sae_pipeline.formats.raw_sae import RawSae
from sae_pipeline.formats.registry import read_sae
from sae_pipeline.sae.history import FILE, SCHEMA
from sae_pipeline.sae.metrics import Activity, Reconstruction
from sae_pipeline.store import Outcome
from sae_pipeline.study import Study
from sae_pipeline.study_pretrained import PretrainedSae

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.sae.autoencoder import SparseAutoencoder

SAMPLE_TOKENS = 4096
REPORT = "import.json"


def build_import(
    activations: "ActivationReader", study: Study, size: int, work: Path, origin: Mapping[str, Any], device: str = "cpu"
) -> Outcome:
    """Import the SAE of `size` features into `work`. Raises `UserError`; nothing is left in `work` then.

    `origin`: what `config.json` says about model, hook and BOS of this study, as for a trained SAE.
    """
    assert isinstance(study.sae, PretrainedSae)
    raw = read_pretrained(study.sae, size, activations.d_model)
    rows, said = compare(raw, study), raw.origin
    config = {
        **origin, "source": "pretrained", "format": said.format, "imported_from": said.where, "imported_model": said.model,
        "imported_hook": said.hook, "threshold_norm": activations.threshold_norm, "context": activations.context,
        "n_tokens_trained": said.n_tokens_trained,
    }  # fmt: skip
    sae = to_published(raw, activations.scale, activations.mean_D, config).to(device)
    sample = measure(sae, activations)
    found = differences(rows)
    if sample["explained_variance_sample"] <= 0:
        found.append(
            f"it reconstructs worse than the mean does (explained variance {sample['explained_variance_sample']:.2f} on "
            f"{sample['n_tokens_sample']} tokens): model, hook, normalisation or BOS are not what it was trained on"
        )
    sae.save(work)
    report = {
        "format": said.format, "from": said.where, "checks": as_table(rows), "differences": found,
        "notes": list(said.notes), **sample,
    }  # fmt: skip
    (work / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    pl.DataFrame(schema=SCHEMA).write_parquet(work / FILE)
    for difference in found:
        progress.say(f"  sae/{size}: {difference}")
    return Outcome(
        metadata={
            "n_features": size, "architecture": raw.architecture, "imported_from": said.where, "format": said.format,
            "n_differences": len(found), "differences": found, "checks": [dict(row) for row in as_table(rows)],
            "notes": list(said.notes), **sample,
            **({} if said.n_tokens_trained is None else {"n_tokens_trained": said.n_tokens_trained}),
        }
    )  # fmt: skip


def read_pretrained(sae: PretrainedSae, size: int, d_model: int) -> RawSae:
    """Read the file that the study names for `size`. Raises `UserError` when it has another size or the model another width."""
    raw = read_sae(sae.format, sae.path, sae.id, sae.folders.get(size, ""), sae.revision, sae.input_scale)
    if raw.n_features != size:
        raise UserError(
            raw.origin.where, f"has {raw.n_features} features, the study's sae.sizes says {size}",
            f"Put {raw.n_features} into sae.sizes (and sae.folders), or name another file.",
        )  # fmt: skip
    if raw.d_model != d_model:
        raise UserError(
            raw.origin.where, f"is {raw.d_model} wide, the study's hook {d_model}: it belongs to another model",
            "Name the model and hook that it was trained on.",
        )  # fmt: skip
    return raw


def measure(sae: "SparseAutoencoder", activations: "ActivationReader") -> dict[str, Any]:
    """Explained variance and L0 on unmasked training tokens of evenly spread blocks: a wrong place or unit shows here at once."""
    tokens = activations.token_index("train")
    blocks = (tokens // activations.context).unique()  # whole blocks: streamed activations are computed a block at a time
    n_blocks = -(-SAMPLE_TOKENS // activations.context)
    chosen = blocks[:: max(1, len(blocks) // n_blocks)][:n_blocks]
    tokens = tokens[torch.isin(tokens // activations.context, chosen)]
    r_ND = activations.gather(tokens)
    codes = sae.encode_sparse(r_ND)
    reconstruction, activity = Reconstruction(sae.d_model), Activity(sae.n_features)
    reconstruction.add(sae.scaled(r_ND), sae.scaled(sae.decode_sparse(codes)))
    activity.add(len(tokens), codes.feature)
    return {
        "n_tokens_sample": len(tokens), "l0_sample": activity.l0(),
        "explained_variance_sample": reconstruction.explained_variance(),
    }  # fmt: skip
