"""What runs by itself: a weekly refresh (off until switched on) and the cheap analysis assets once every size is there."""

from pathlib import Path

import dagster as dg

from sae_pipeline.stages import PER_SIZE
from sae_pipeline.study import Study


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


def judge_batches(study: Study, root: Path | str) -> dg.SensorDefinition:
    """Collects the judge's batches as they end and goes on with the sizes that waited for them: no process stays open."""

    @dg.sensor(
        job_name=PER_SIZE, minimum_interval_seconds=300, default_status=dg.DefaultSensorStatus.RUNNING, name="judge_batches",
        description="Collects the judge's message batches as they end, then asks for a run of the sizes that waited for them.",
    )  # fmt: skip
    def sensor(context: dg.SensorEvaluationContext):
        """One run per size, once for each last batch; what is fresh is reused by its digests."""
        from sae_pipeline.judge.batches import BatchJudge
        from sae_pipeline.judge.open import ledger_folder, open_judge
        from sae_pipeline.judge.submissions import Submissions

        folder = Path(root) / study.name
        if not ledger_folder(folder).is_dir():
            yield dg.SkipReason("nothing has been asked yet")
            return
        with open_judge(study.judge, folder, "sensor") as judge:
            if not isinstance(judge, BatchJudge):
                yield dg.SkipReason("no judge configured: there is no key")
                return
            n_running = judge.advance()
            finished = Submissions(judge.ledger).finished_stages()
        sizes: dict[str, int] = {}
        for stage, submission_id in finished.items():
            size = stage.rpartition("/")[2]
            sizes[size] = max(submission_id, sizes.get(size, 0))
        for size, submission_id in sizes.items():
            yield dg.RunRequest(run_key=f"judge-batch-{submission_id}-{size}", partition_key=size)
        if not sizes:
            yield dg.SkipReason(f"{n_running} batches are running")

    return sensor
