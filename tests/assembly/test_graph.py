"""Shape of the declared graph, and the direction in which modules may import."""

import ast
import warnings
from pathlib import Path

import dagster as dg
import pytest

from sae_pipeline.definitions import build_defs

ROOT = Path(__file__).resolve().parents[2]
ASSEMBLY = {
    "__main__", "automation", "cli", "compute_logs", "definitions", "jobs", "orphans", "partitions", "runner",
}  # fmt: skip
HEAVY = {"torch", "umap", "transformers", "datasets", "anthropic", "matplotlib", "pandera", "duckdb"}


@pytest.fixture(scope="module")
def defs(tiny_study) -> dg.Definitions:
    return build_defs(tiny_study)


def modules_imported(file: Path, at_import_time: bool) -> set[str]:
    """Dotted names that a file imports, anywhere or only when it is itself imported."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if at_import_time and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if at_import_time and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                names.add(child.module)
                names.update(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return names


def python_files(folder: str) -> list[Path]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    return files


def test_domain_imports_neither_dagster_nor_the_assembly():
    for file in python_files("sae_pipeline"):
        top = file.relative_to(ROOT / "sae_pipeline").parts[0].removesuffix(".py")
        if top in ASSEMBLY:
            continue
        names = modules_imported(file, at_import_time=False)
        wrong = [name for name in names if name.split(".")[0] in ("dagster", "assets", "resources")]
        wrong += [name for name in names if name.startswith("sae_pipeline.") and name.split(".")[1] in ASSEMBLY]
        assert not wrong, f"{file}: {wrong}"


def test_resources_do_not_import_assets_or_definitions():
    for file in python_files("resources"):
        names = modules_imported(file, at_import_time=False)
        wrong = [name for name in names if name.startswith(("assets", *(f"sae_pipeline.{each}" for each in ASSEMBLY)))]
        assert not wrong, f"{file}: {wrong}"


def test_assets_do_not_import_definitions():
    for file in python_files("assets"):
        names = modules_imported(file, at_import_time=False)
        wrong = [name for name in names if name.startswith(tuple(f"sae_pipeline.{each}" for each in ASSEMBLY))]
        assert not wrong, f"{file}: {wrong}"


def test_no_heavy_import_when_the_code_location_loads():
    light = [*python_files("assets"), *python_files("resources"), *python_files("sae_pipeline/cli")]
    light += [ROOT / "sae_pipeline" / f"{name}.py" for name in ("__main__", "definitions", "study", "stages", "store", "runner")]
    for file in light:
        heavy = {name.split(".")[0] for name in modules_imported(file, at_import_time=True)} & HEAVY
        assert not heavy, f"{file}: {heavy}"


def test_the_import_finder_itself_sees_what_it_should(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("import torch.nn\ndef f():\n    from dagster import asset\n", encoding="utf-8")
    assert modules_imported(file, at_import_time=True) == {"torch.nn"}
    assert "dagster.asset" in modules_imported(file, at_import_time=False)


def test_definitions_load_without_warnings_of_ours(defs, tiny_study):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dg.Definitions.validate_loadable(build_defs(tiny_study))
    assert [str(each.message) for each in caught if each.category.__module__.startswith("dagster")] == []
