"""Runs whose process is gone. A killed run stays STARTED for ever and would hold its pool; here it is closed.

The store resource tags every run with the process that executes it. The command line sweeps when it starts, and a sensor sweeps
every minute while the web UI is up.
"""

import dagster as dg

from resources.process import PROCESS_TAG, is_gone


def close_orphans(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this host whose process is gone as failed; returns their ids."""
    closed = []
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        if is_gone(run.tags.get(PROCESS_TAG, "")):
            instance.report_run_failed(run, "The process that executed this run is gone. Finished steps are kept.")
            closed.append(run.run_id)
    return closed


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def orphaned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Closes runs whose process is gone."""
    closed = close_orphans(context.instance)
    return dg.SkipReason(f"closed {len(closed)} orphaned runs: {', '.join(closed)}" if closed else "no orphaned runs")
