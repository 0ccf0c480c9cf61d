"""Every format by name. A format is always named, never guessed; a wrong guess would be a silent wrong answer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sae_pipeline.errors import UserError
from sae_pipeline.formats import dictionary_learning, gemma_scope, openai, own, saelens, saelens_writer, sparsify
from sae_pipeline.formats.raw_sae import RawSae
from sae_pipeline.formats.source import Source, hub_source, local_source


@dataclass(frozen=True)
class Format:
    """A reader, a writer (or None), and the files that a hub download fetches."""

    name: str
    summary: str
    files: tuple[str, ...]
    read: Callable[[Source], RawSae]
    write: Callable[[RawSae, Path], list[str]] | None = None


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "saelens", "SAELens: cfg.json, sae_weights.safetensors", (saelens.CONFIG, saelens.WEIGHTS, saelens.SCALER),
            saelens.read_saelens, saelens_writer.write_saelens,
        ),
        Format("gemma_scope", "Gemma Scope: params.npz", (gemma_scope.WEIGHTS_1,), gemma_scope.read_gemma_scope),
        Format(
            "gemma_scope_2", "Gemma Scope 2: config.json, params.safetensors", (gemma_scope.CONFIG_2, gemma_scope.WEIGHTS_2),
            gemma_scope.read_gemma_scope_2,
        ),
        Format(
            "sparsify", "sparsify: cfg.json, sae.safetensors", (sparsify.CONFIG, sparsify.WEIGHTS, f"../{sparsify.RUN}"),
            sparsify.read_sparsify, sparsify.write_sparsify,
        ),
        Format(
            "dictionary_learning", "dictionary_learning: config.json, ae.pt",
            (dictionary_learning.CONFIG, dictionary_learning.WEIGHTS), dictionary_learning.read_dictionary_learning,
        ),
        Format("openai", "OpenAI sparse_autoencoder: one .pt file", ("*.pt",), openai.read_openai),
        Format(
            "own", "this project: config.json, weights.safetensors", (own.CONFIG, own.WEIGHTS), own.read_own, own.write_own
        ),
    )
}  # fmt: skip
WRITABLE = tuple(format.name for format in FORMATS.values() if format.write)


def format_named(name: str, field: str = "--format") -> Format:
    """A format by its name. Raises `UserError` that lists all of them."""
    if name not in FORMATS:
        raise UserError(field, f"{name!r} is no format", f"Formats: {', '.join(FORMATS)}.")
    return FORMATS[name]


def read_sae(
    name: str,
    path: str | Path | None = None,
    repository: str | None = None,
    within: str = "",
    revision: str | None = None,
    input_scale: float | None = None,
) -> RawSae:
    """Read an SAE from a local `path` or a hub `repository`; `within` is the folder below either. Raises `UserError`."""
    format = format_named(name)
    if (path is None) == (repository is None):
        raise UserError("sae", "needs a local path or a repository on the hub, one of them", "Give `path` or `id`.")
    if path is not None:
        source = local_source(path, within, input_scale)
    else:
        assert repository is not None
        source = hub_source(repository, revision, within, format.files, input_scale)
    if source.input_scale is not None and name != "saelens":
        raise UserError("input_scale", f"has no meaning for {name}", "Leave it out; its activations are not scaled.")
    return format.read(source)
