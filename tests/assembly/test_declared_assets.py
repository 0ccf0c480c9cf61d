"""Every stage of the table is a declared asset with everything that the UI shows."""

import dagster as dg
import pytest

from sae_pipeline.definitions import build_defs
from sae_pipeline.stages import STAGES, stages_of


@pytest.fixture(scope="module")
def defs(tiny_study) -> dg.Definitions:
    return build_defs(tiny_study)


def test_every_stage_is_a_documented_asset(defs, tiny_study):
    specs = {spec.key.path[-1]: spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == set(STAGES)
    for name, spec in specs.items():
        stage = STAGES[name]
        assert spec.description and len(spec.description) > 60, name
        assert spec.group_name == stage.group and spec.code_version == stage.code_version
        assert spec.kinds and spec.owners
        assert {dep.asset_key.path[-1] for dep in spec.deps} == {*stage.upstream, *stage.optional}
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
    jobs = [job for job in ("prepare", "per_size", "compare", "survey_per_size", "survey") if stages_of(job)]
    for job in jobs:
        selected = {key.path[-1] for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}
        assert selected == set(stages_of(job))
    assert sorted(stage for job in jobs for stage in stages_of(job)) == sorted(STAGES)
    assert stages_of("survey")[-1] == "survey_verdicts"
    assert set(stages_of("survey") + stages_of("survey_per_size")) == {name for name, stage in STAGES.items() if stage.in_survey}
