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
        """One run per size, once for each last batch; what is fresh is reused by its digests.

        Until then the asset's page shows how many questions are answered and how many wait.
        """
        from sae_pipeline.judge.batches import BatchJudge
        from sae_pipeline.judge.open import ledger_folder, open_judge
        from sae_pipeline.judge.submissions import Submissions

        folder = Path(root) / study.name
        if not ledger_folder(folder).is_dir():
            return dg.SkipReason("nothing has been asked yet")
        with open_judge(study.judge, folder, "sensor") as judge:
            if not isinstance(judge, BatchJudge):
                return dg.SkipReason("no judge configured: there is no key")
            n_running = judge.advance()
            submissions = Submissions(judge.ledger)
            finished, progress = submissions.finished_stages(), submissions.progress()
        sizes: dict[str, int] = {}
        for stage, submission_id in finished.items():
            size = stage.rpartition("/")[2]
            sizes[size] = max(submission_id, sizes.get(size, 0))
        observed = [
            dg.AssetObservation(
                stage.rpartition("/")[0], partition=stage.rpartition("/")[2],
                metadata={"judge_n_answered": n_answered, "judge_n_waiting": n_waiting},
            )
            for stage, (n_answered, n_waiting) in progress.items() if n_waiting
        ]  # fmt: skip
        requests = [dg.RunRequest(run_key=f"judge-batch-{id_}-{size}", partition_key=size) for size, id_ in sizes.items()]
        said = ", ".join(f"{stage}: {done} answered, {waiting} waiting" for stage, (done, waiting) in progress.items())
        why = None if requests else f"{n_running} batches are running ({said})"
        return dg.SensorResult(run_requests=requests, skip_reason=why, asset_events=observed)

    return sensor
