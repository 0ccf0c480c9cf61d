"""Shape of the declared graph, and the direction in which modules may import."""

import ast
import warnings
from pathlib import Path

import dagster as dg
import pytest

from sae_pipeline.definitions import build_defs
from sae_pipeline.jobs import job_of, stages_of
from sae_pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
ASSEMBLY = {
    "__main__", "automation", "cli", "definitions", "jobs", "orphans", "partitions", "runner",
}  # fmt: skip
HEAVY = {"torch", "transformers", "datasets", "anthropic", "matplotlib", "pandera", "duckdb"}


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


def test_every_stage_is_a_documented_asset(defs, tiny_study):
    specs = {spec.key.path[-1]: spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == set(STAGES)
    for name, spec in specs.items():
        stage = STAGES[name]
        assert spec.description and len(spec.description) > 60, name
        assert spec.group_name == stage.group and spec.code_version == stage.code_version
        assert spec.kinds and spec.owners
        assert {dep.asset_key.path[-1] for dep in spec.deps} == set(stage.upstream)
        keys = spec.partitions_def.get_partition_keys() if spec.partitions_def else None
        assert keys == (["32", "64"] if stage.per_size else None)
        eager = stage.group == "analysis"
        assert (spec.automation_condition is not None) == eager


def test_every_stage_but_figures_has_a_blocking_check_with_a_description(defs):
    graph = defs.resolve_asset_graph()
    checked = set()
    for key in graph.asset_check_keys:
        spec = graph.get_check_spec(key)
        checked.add(key.asset_key.path[-1])
        assert spec.blocking and spec.description
        assert (spec.partitions_def is not None) == STAGES[key.asset_key.path[-1]].per_size
    assert checked >= set(STAGES) - {"size_comparison", "report"}


def test_jobs_cover_the_graph_once(defs):
    for job in ("prepare", "per_size", "compare"):
        selected = {key.path[-1] for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}
        assert selected == set(stages_of(job)) == {stage for stage in STAGES if job_of(stage) == job}
    assert set(stages_of("prepare") + stages_of("per_size") + stages_of("compare")) == set(STAGES)


def test_definitions_load_without_warnings_of_ours(defs, tiny_study):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dg.Definitions.validate_loadable(build_defs(tiny_study))
    assert [str(each.message) for each in caught if each.category.__module__.startswith("dagster")] == []
