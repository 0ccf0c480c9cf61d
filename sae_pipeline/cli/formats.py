"""`sae-pipeline import`, `export`, `convert`: SAEs from and to other tools. Heavy imports stay inside the functions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sae_pipeline.formats.raw_sae import RawSae

StudyOption = Annotated[Path, typer.Option("--study", envvar="SAE_PIPELINE_STUDY", help="The study file.")]
FORMATS_HELP = "saelens, gemma_scope, gemma_scope_2, sparsify, dictionary_learning, openai or own"
Format = Annotated[str, typer.Option("--format", help=f"What the files are: {FORMATS_HELP}. Never guessed.")]
Place = Annotated[str | None, typer.Option("--path", help="Folder (or weights file) on this machine.")]
Repository = Annotated[str | None, typer.Option("--id", help="Repository on the Hugging Face hub, owner/name.")]
Folder = Annotated[str, typer.Option("--folder", help="Where the SAE lies below --path or --id.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of --id.")]
InputScale = Annotated[
    float | None, typer.Option("--input-scale", help="Factor on activations that a SAELens file asks for and does not hold.")
]


def register(app: typer.Typer, default_study: Path) -> None:
    """Add the three commands to the command line."""

    @app.command("import")
    def import_command(
        format: Format,
        path: Place = None,
        id: Repository = None,
        folder: Folder = "",
        revision: Revision = None,
        input_scale: InputScale = None,
        study: Annotated[Path | None, typer.Option("--study", help="Hold the file against this study.")] = None,
        out: Annotated[Path | None, typer.Option(help="Also write it in our own format, into this new folder.")] = None,
    ) -> None:
        """Look at an SAE made elsewhere before a study uses it: read and check it whole, say what it is, print the study section.

        Writes nothing without --out. Unknown keys, wrong shapes, NaN and files with code in them are refused by name.
        Examples: `sae-pipeline import --format gemma_scope --id google/gemma-scope-2b-pt-res --folder
        layer_12/width_16k/average_l0_82`, `sae-pipeline import --format saelens --path ~/saes/mine --study studies/mine.yaml`.
        Next: paste the printed section into a study and `sae-pipeline run` it.
        """
        from sae_pipeline.formats.registry import read_sae

        raw = read_sae(format, path, id, folder, revision, input_scale)
        _describe(raw)
        if study is not None:
            _compare(raw, study)
        place = f"path: {path}" if path else f"id: {id}" + (f", revision: {revision}" if revision else "")
        folders = f", folders: {{{raw.n_features}: {folder}}}" if folder else ""
        scale = f", input_scale: {input_scale:g}" if input_scale else ""
        typer.echo("In a study:")
        typer.echo(f"  sae: {{source: pretrained, format: {format}, {place}, sizes: [{raw.n_features}]{folders}{scale}}}")
        if out is not None:
            _write(raw, "own", out)

    @app.command()
    def convert(
        to: Annotated[str, typer.Option("--to", help="saelens, sparsify or own.")],
        out: Annotated[Path, typer.Option(help="New folder for the result.")],
        format: Annotated[str, typer.Option("--from", help=f"What the files are: {FORMATS_HELP}.")],
        path: Place = None,
        id: Repository = None,
        folder: Folder = "",
        revision: Revision = None,
        input_scale: InputScale = None,
    ) -> None:
        """Turn an SAE of one tool into the files of another, without any study. The result is read back and compared.

        Feature activations stay what they are, to and from `own` in units of ‖W_dec,i‖. What a format cannot hold (thresholds in
        sparsify, a normalisation of every token) is refused. Example: `sae-pipeline convert --from dictionary_learning --path
        runs/trainer_0 --to saelens --out converted`. Next: load it there, or `sae-pipeline import` it.
        """
        from sae_pipeline.formats.registry import read_sae

        raw = read_sae(format, path, id, folder, revision, input_scale)
        _describe(raw)
        _write(raw, to, out)

    @app.command()
    def export(
        to: Annotated[str, typer.Option("--to", help="saelens, sparsify, own or neuronpedia.")] = "saelens",
        size: Annotated[list[int] | None, typer.Option(help="SAE size; repeat for several. Default: all.")] = None,
        out: Annotated[Path | None, typer.Option(help="New folder; each size gets a folder in it.")] = None,
        push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload as SAELens files with a model card.")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="With --push: show files and card, open no connection.")] = False,
        private: Annotated[bool, typer.Option("--private", help="With --push: a repository that only you see.")] = False,
        license: Annotated[str | None, typer.Option(help="With --push: the card's license, for example mit.")] = None,
        release: Annotated[str | None, typer.Option(help="Neuronpedia: name of the release. Default: the study's.")] = None,
        source_set: Annotated[str | None, typer.Option("--set", help="Neuronpedia: source set. Default: res-SIZE.")] = None,
        creator: Annotated[str, typer.Option(help="Neuronpedia: who made it.")] = "anonymous",
        model_id: Annotated[str | None, typer.Option("--model-id", help="Neuronpedia: its name of the model.")] = None,
        study: StudyOption = default_study,
    ) -> None:
        """Take a study's SAEs to other tools. What is written is read back and must compute the same.

        saelens loads in SAELens and SAEBench; sparsify takes top-k SAEs; neuronpedia writes its import folder (features,
        activations, explanations). Examples: `sae-pipeline export --to saelens --size 4096 --out exported`,
        `sae-pipeline export --push me/my-saes --dry-run`, `sae-pipeline export --to neuronpedia --out neuronpedia --creator me`.
        """
        from sae_pipeline.cli.export import ExportOptions, export_command

        options = ExportOptions(
            study, to, tuple(size or ()), out, push, dry_run, private, license, release, source_set, creator, model_id
        )
        export_command(options)


def _describe(raw: "RawSae") -> None:
    origin = raw.origin
    active = f"the {raw.k} largest of a token" if raw.k else "above its threshold"
    typer.echo(f"{origin.where} ({origin.format})")
    typer.echo(f"  {raw.architecture}, {raw.n_features:,} features of {raw.d_model} dimensions, active: {active}")
    said = {"model": origin.model, "hook": origin.hook, "context": origin.context, "bos": origin.bos, "numbers": origin.dtype}
    typer.echo("  " + ", ".join(f"{name} {'not recorded' if value is None else value}" for name, value in said.items()))
    for note in origin.notes:
        typer.echo(f"  note: {note}")


def _compare(raw: "RawSae", study_file: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from sae_pipeline.errors import UserError
    from sae_pipeline.formats.compare import compare
    from sae_pipeline.plan import model_shape
    from sae_pipeline.study import load_study

    study = load_study(study_file)
    table = Table("", "the file", f"study {study.name}", "", box=None, pad_edge=False)
    for row in compare(raw, study):
        table.add_row(*row)
    Console(highlight=False, width=130).print(table)
    if (width := model_shape(study).d_model) != raw.d_model:
        what = f"is {raw.d_model} wide, the study's hook {width}: it belongs to another model"
        raise UserError(raw.origin.where, what, "Name the model and hook that it was trained on.")


def _write(raw: "RawSae", to: str, out: Path) -> None:
    from sae_pipeline.formats.export import new_folder, write_checked

    with new_folder(out) as scratch:
        names = write_checked(raw, to, scratch)
    typer.echo(f"written: {', '.join(str(out / name) for name in names)}")
