"""What is refused before anything starts, each with where, what and mend."""

import dataclasses
import io
import shutil

import pytest
from rich.console import Console

from sae_pipeline import plan_work, preflight
from sae_pipeline.cli.run import plan_command
from sae_pipeline.device import Device
from sae_pipeline.errors import UserError
from sae_pipeline.plan import make_plan, show_plan
from sae_pipeline.preflight import check_plan
from sae_pipeline.stages import STAGES, sizes_of
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study


def everything(store):
    """What the main run builds."""
    return [(name, size) for name, stage in STAGES.items() if not stage.in_survey for size in sizes_of(store.study, name)]


def checked(pipeline, **options):
    store = pipeline.store
    check_plan(store, make_plan(store, everything(store)), **options)


def refused(pipeline, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        checked(pipeline, **options)
    assert not pipeline.root.exists()
    return caught.value


def test_a_sound_study_passes_and_nothing_is_written(pipeline):
    checked(pipeline)
    assert not pipeline.root.exists()


def test_a_plan_writes_nothing(pipeline, monkeypatch, capsys):
    monkeypatch.chdir(pipeline.file.parent)
    before = sorted(pipeline.file.parent.rglob("*"))
    plan_command(pipeline.file, count_tokens=False)
    assert "corpus" in capsys.readouterr().out and sorted(pipeline.file.parent.rglob("*")) == before


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "data").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match=r"data/a: cannot be made \(.*data is no folder\)"):
        preflight._check_folder(tmp_path / "data" / "a")
    monkeypatch.setattr(preflight.os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(UserError, match="is not writable"):
        preflight._check_folder(tmp_path / "more" / "a")
    assert not (tmp_path / "more").exists()


def test_hook_past_the_last_block(pipeline):
    pipeline.mapping["hook"]["after_block"] = 3
    pipeline.write()
    error = refused(pipeline)
    assert error.where == "hook.after_block" and "blocks 0 to 2" in error.what and "Choose 0 to 2" in error.mend


def test_context_longer_than_the_model_can_read(pipeline):
    pipeline.mapping["corpus"]["context"] = 512
    pipeline.write()
    assert refused(pipeline).where == "corpus.context"


def test_missing_model_folder(pipeline, tmp_path):
    pipeline.mapping["model"]["path"] = str(tmp_path / "nowhere")
    pipeline.write()
    assert "has no config.json" in refused(pipeline).what


def test_hub_model_that_cannot_be_reached(pipeline):
    pipeline.mapping["model"] = {"source": "hub", "id": "nobody/no-such-model"}
    pipeline.write()
    error = refused(pipeline)
    assert error.where == "model.id" and "nobody/no-such-model" in error.what


def test_package_that_is_not_installed(pipeline):
    pipeline.mapping["model"] = {"source": "package", "package": "no_such_package", "file": "x.gguf"}
    pipeline.write()
    error = refused(pipeline)
    assert "no_such_package is not installed" in error.what and "install" in error.mend


def test_corpus_file_that_does_not_exist(pipeline, tmp_path):
    pipeline.mapping["corpus"]["sources"][0]["path"] = str(tmp_path / "*.jsonl")
    pipeline.write()
    assert "no file matches" in refused(pipeline).what


def test_disk_too_small_for_the_plan(pipeline, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    error = refused(pipeline)
    assert "GB of disk" in error.what and "Free some space" in error.mend


def test_memory_too_small_for_the_plan(pipeline, monkeypatch):
    monkeypatch.setattr("sae_pipeline.device.choose_device", lambda *_: Device("cpu", "a test", 1000))
    assert "GB of memory" in refused(pipeline).what


def test_device_that_is_not_there(pipeline):
    assert refused(pipeline, device="cuda:99").where == "compute.device"


def test_more_time_than_allowed_names_the_longest_stage(pipeline, monkeypatch):
    monkeypatch.setattr(plan_work, "SAE_RATE_PER_CORE", 1.0)
    error = refused(pipeline, max_minutes=1)
    assert error.where == "--max-minutes" and "longest stage is sae" in error.mend
    checked(pipeline, max_minutes=1e9)


def test_plan_says_what_the_judge_may_cost(pipeline):
    def printed(**judge) -> str:
        pipeline.mapping |= {"judge": judge, "score": {"method": "rubric"}} if judge else {}
        pipeline.write()
        console = Console(file=io.StringIO(), width=500)
        show_plan(make_plan(pipeline.store, [("corpus", None)]), console)
        return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]

    assert "judge: none: offline methods only, 0 dollars" in printed()
    paid = printed(backend="anthropic", model="claude-haiku-5-5", budget_usd=5)
    assert "cap 5 dollars, 0.00 spent so far" in paid and "in batches (prices of 2026-10-10)" in paid
    assert "0 dollars (a local server)" in printed(backend="local", model="m", base_url="http://127.0.0.1:1")
    with pytest.raises(UserError, match="no price"):
        printed(backend="anthropic", model="unheard-of", budget_usd=5)


def test_the_demo_is_planned_within_its_budget_on_two_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(plan_work.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    store = ArtifactStore(load_study("studies/demo.yaml"), tmp_path)
    plan = make_plan(store, everything(store))
    by_stage = {stage: sum(row.seconds for row in plan.rows if row.stage == stage) for stage in STAGES}
    assert 8 * 60 < plan.seconds < 15 * 60 - 60, by_stage  # about 15 minutes; the installation comes on top
    for stage, budget in (("activations", 170), ("sae", 200), ("steering_evals", 300)):
        assert budget / 3 < by_stage[stage] <= budget * 1.25, by_stage


def test_foreign_database_is_refused_and_kept(pipeline):
    database = pipeline.store.root / "analysis.duckdb"
    database.parent.mkdir(parents=True)
    database.write_text("my own notes", encoding="utf-8")
    with pytest.raises(UserError, match="is not a DuckDB database"):
        checked(pipeline)
    assert database.read_text(encoding="utf-8") == "my own notes"


def test_folder_that_cannot_be_made(pipeline, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    store = ArtifactStore(load_study(pipeline.file), tmp_path / "file")
    with pytest.raises(UserError, match="cannot be made"):
        check_plan(store, make_plan(store, [("corpus", None)]))


def test_plan_counts_what_is_fresh_and_what_may_change(pipeline):
    pipeline.run()
    store = pipeline.store
    fresh = make_plan(store, everything(store))
    assert {row.state for row in fresh.rows} == {"fresh"} and fresh.seconds == 0 == fresh.n_bytes
    pipeline.mapping["steer"]["factors"] = [0, 1, 3]
    pipeline.write()
    store = pipeline.store
    states = {(row.stage, row.size): row.state for row in make_plan(store, everything(store)).rows}
    assert {name for name, state in states.items() if state == "build"} == {("steering_evals", 32), ("steering_evals", 64)}
    assert {name for name, state in states.items() if state == "if changed"} == {
        ("analysis_tables", None), ("size_comparison", None), ("report", None),
    }  # fmt: skip


def test_a_survey_that_would_write_too_much_text_is_refused_before_it_starts(pipeline):
    store = pipeline.store
    plan = make_plan(store, [("steering_comparison", None), ("case_clamps", None)])
    check_plan(store, plan)
    compared = plan.study.survey.steering_comparison.model_copy(update={"n_concepts": 30})
    survey = plan.study.survey.model_copy(update={"steering_comparison": compared, "max_generated_tokens": 2_000})
    asking = dataclasses.replace(plan, study=plan.study.model_copy(update={"survey": survey}))
    with pytest.raises(UserError, match=r"survey\.steering_comparison\.n_concepts: with 30 .* 2,000 are allowed") as caught:
        check_plan(store, asking)
    assert "max_generated_tokens" in str(caught.value)
    alone = dataclasses.replace(asking, rows=tuple(make_plan(store, [("attribution", None)]).rows))
    tight = survey.model_copy(update={"max_generated_tokens": 1})
    with pytest.raises(UserError, match=r"survey\.max_generated_tokens: attribution asks for .* 1 are allowed"):
        check_plan(store, dataclasses.replace(alone, study=plan.study.model_copy(update={"survey": tight})))
    # The same settings are no obstacle to what generates nothing.
    check_plan(store, dataclasses.replace(asking, rows=tuple(make_plan(store, [("corpus", None)]).rows)))
