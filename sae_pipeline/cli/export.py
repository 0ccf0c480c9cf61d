"""What `sae-pipeline export` does, once its options are known."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sae_pipeline.errors import UserError
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study


@dataclass(frozen=True)
class ExportOptions:
    """The command line of `export`."""

    study_file: Path
    to: str = "saelens"
    sizes: tuple[int, ...] = ()
    out: Path | None = None
    push: str | None = None
    dry_run: bool = False
    private: bool = False
    license: str | None = None
    release: str | None = None
    source_set: str | None = None
    creator: str = "anonymous"
    model_id: str | None = None


def export_command(options: ExportOptions) -> None:
    """Write or push. Raises `UserError`."""
    study = load_study(options.study_file)
    store = ArtifactStore(study, study_file=options.study_file)
    sizes = list(options.sizes or study.sae.sizes)
    if unknown := sorted(set(sizes) - set(study.sae.sizes)):
        raise UserError("--size", f"{unknown[0]} is not in sae.sizes {study.sae.sizes}", "Give one of these.")
    if options.push is not None and options.to != "neuronpedia":
        _push(store, sizes, options)
        return
    if options.dry_run or options.private or options.license:
        raise UserError("--dry-run, --private, --license", "go with --push", "Add --push OWNER/NAME, or leave them out.")
    if options.out is None:
        raise UserError("--out", "is missing", "Name a new folder, or --push to a repository.")
    from sae_pipeline.formats.export import new_folder

    with new_folder(options.out) as scratch:
        for size in sizes:
            _export(store, size, options, scratch)
    for file in sorted(path for path in options.out.rglob("*") if path.is_file()):
        print(f"{file}  {file.stat().st_size:,} bytes")


def _export(store: ArtifactStore, size: int, options: ExportOptions, folder: Path) -> None:
    if options.to == "neuronpedia":
        from sae_pipeline.formats.neuronpedia import NeuronpediaNames, export_neuronpedia

        site = "res" if store.study.hook.site == "residual" else "mlp"
        names = NeuronpediaNames(
            options.release or store.study.name, options.source_set or f"{site}-{size}", options.creator, options.model_id,
            options.push,
        )  # fmt: skip
        if options.source_set and len(options.sizes or store.study.sae.sizes) > 1:
            raise UserError("--set", "names one source set, but several sizes are exported", "Export one --size at a time.")
        export_neuronpedia(store, size, names, folder)
        return
    from sae_pipeline.formats.export import export_sae

    export_sae(store, size, options.to, folder / str(size))


def _push(store: ArtifactStore, sizes: list[int], options: ExportOptions) -> None:
    from sae_pipeline.formats.hub import CARD, prepare, push

    assert options.push is not None
    if options.out is not None or options.to != "saelens":
        raise UserError("--push", "uploads SAELens files and writes no folder", "Leave out --out and --to.")
    with tempfile.TemporaryDirectory() as scratch:
        upload = prepare(store, sizes, options.push, Path(scratch), options.license)
        for name, n_bytes in upload.files:
            print(f"{options.push}/{name}  {n_bytes:,} bytes")
        if options.dry_run:
            print(f"\n{(upload.folder / CARD).read_text(encoding='utf-8')}\ndry run: nothing was uploaded")
        else:
            print(push(upload, options.private))
