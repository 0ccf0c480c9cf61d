"""What runs by itself: a weekly refresh (off until switched on) and the cheap analysis assets once every size is there."""

import dagster as dg

from sae_pipeline.jobs import PER_SIZE


def weekly_refresh(sizes: dg.PartitionsDefinition) -> dg.ScheduleDefinition:
    """Every Sunday at 02:00 UTC one run per size. Cheap when nothing changed: every asset is reused by its digests."""

    @dg.schedule(job_name=PER_SIZE, cron_schedule="0 2 * * 0", execution_timezone="UTC", name="weekly_refresh")
    def schedule(context: dg.ScheduleEvaluationContext):
        """One run per SAE size, at most once a week each."""
        for size in sizes.get_partition_keys():
            yield dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}-{size}", partition_key=size)

    return schedule


def analysis_refresh() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the eager condition of the analysis assets; on from the start."""
    return dg.AutomationConditionSensorDefinition(
        "analysis_refresh", target=dg.AssetSelection.groups("analysis"), default_status=dg.DefaultSensorStatus.RUNNING
    )
