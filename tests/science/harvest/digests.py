"""Harvest into a folder, and what it holds."""

from pathlib import Path

from sae_pipeline.activations.build import build_activations
from sae_pipeline.digests import file_digest


def harvest_into(folder, study, lm, corpus_folder, **changes):
    folder.mkdir(exist_ok=True)
    return build_activations(corpus_folder, lm, study.activations.model_copy(update=changes), study.metrics, folder)


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


# --- what is stored
