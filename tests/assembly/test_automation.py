"""Schedule, sensors and automation conditions, on fake builders."""

import datetime
import socket

import dagster as dg

from resources.process import PROCESS_TAG, is_gone, process_tag
from sae_pipeline.orphans import close_orphans, orphaned_runs


def test_weekly_refresh_asks_for_one_run_per_size(pipeline):
    defs = pipeline.defs()
    schedule = defs.resolve_schedule_def("weekly_refresh")
    assert schedule.cron_schedule == "0 2 * * 0" and schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    when = datetime.datetime(2026, 1, 4, 2, tzinfo=datetime.UTC)
    context = dg.build_schedule_context(scheduled_execution_time=when, repository_def=defs.get_repository_def())
    tick = schedule.evaluate_tick(context)
    assert [(request.partition_key, request.run_key) for request in tick.run_requests or []] == [
        ("32", "2026-01-04-32"),
        ("64", "2026-01-04-64"),
    ]


def test_analysis_is_requested_once_after_the_last_size(pipeline):
    defs = pipeline.defs()

    def tick(cursor):
        return dg.evaluate_automation_conditions(defs, pipeline.instance, cursor=cursor)

    result = tick(None)
    assert result.total_requested == 0
    pipeline.run(sizes=(32,))
    result = tick(result.cursor)
    assert result.total_requested == 0
    for stage in ("sae", "sae_metrics", "feature_stats", "explanations", "specificity_scores", "steering_evals"):
        pipeline.run(sizes=(64,), only=stage)
    result = tick(result.cursor)
    assert result.get_num_requested(dg.AssetKey("analysis_tables")) == 1
    assert result.get_num_requested(dg.AssetKey("sae")) == 0
    assert tick(result.cursor).total_requested == 0


def test_the_survey_neither_runs_by_itself_nor_sets_anything_off(pipeline):
    pipeline.run()
    defs = pipeline.defs()
    cursor = dg.evaluate_automation_conditions(defs, pipeline.instance).cursor
    pipeline.run(only="neighbourhoods")
    result = dg.evaluate_automation_conditions(defs, pipeline.instance, cursor=cursor)
    assert pipeline.fake.built == [("neighbourhoods", None)] and result.total_requested == 0


def test_run_of_a_dead_process_is_closed_and_a_living_one_left(pipeline):
    defs, instance = pipeline.defs(), pipeline.instance
    job = defs.resolve_job_def("prepare")
    started = dg.DagsterRunStatus.STARTED
    dead = instance.create_run_for_job(job, status=started, tags={PROCESS_TAG: f"{socket.gethostname()}:999999999:1"})
    alive = instance.create_run_for_job(job, status=started, tags=process_tag())
    elsewhere = instance.create_run_for_job(job, status=started, tags={PROCESS_TAG: "another-host:1:1"})
    assert close_orphans(instance) == [dead.run_id]
    status = {run.run_id: run.status for run in instance.get_runs()}
    assert status[dead.run_id] == dg.DagsterRunStatus.FAILURE
    assert status[alive.run_id] == status[elsewhere.run_id] == started
    skip = orphaned_runs(dg.build_sensor_context(instance=instance))
    assert isinstance(skip, dg.SkipReason) and skip.skip_message == "no orphaned runs"


def test_a_reused_process_id_is_not_the_same_process():
    host, pid, started = process_tag()[PROCESS_TAG].split(":")
    assert not is_gone(f"{host}:{pid}:{started}")
    assert is_gone(f"{host}:{pid}:{int(started) - 100}")


def test_every_run_carries_the_process_tag(pipeline):
    pipeline.run(only="corpus")
    (run,) = pipeline.instance.get_runs()
    assert run.tags[PROCESS_TAG] == process_tag()[PROCESS_TAG]
