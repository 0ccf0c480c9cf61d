"""The paper's single cases, each beside random directions and random features."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={"schema": SCHEMA, "recomputed": "AUROCs of the code-error feature follow from the single items"},
)  # fmt: skip
def case_studies(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Code errors, addition, list positions, syntax, toy features, languages, abstraction, chat and self, on the largest size.

    Chosen on half A, reported on half B, beside the best of as many random directions and beside random features. Part of
    `sae-pipeline run --job survey`.
    """
    from sae_pipeline.survey.cases.build import build_case_studies, open_world

    study, artifacts, size = store.study, store.artifacts, max(store.study.sae.sizes)

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            world = open_world(
                language_model.load(study, device), artifacts.path("corpus"), artifacts.path("activations"),
                artifacts.path("feature_stats", size), artifacts.path("sae", size), study.survey.case_studies,
            )  # fmt: skip
            return build_case_studies(world, work)

    yield from publish(
        context, artifacts, "case_studies", build,
        checks={"schema": lambda work: schema_check(work, "case_studies"), "recomputed": areas_recomputed},
        force=config.force, show=lambda work, _: {"cases": picture((work / "case_studies.light.png").read_bytes())},
        headline=("n_measurements", "n_not_testable"),
    )  # fmt: skip


def areas_recomputed(folder: Path) -> Verdict:
    """The area under the curve once more, by ranks: sums of ranks of the positives (Mann-Whitney)."""
    import polars as pl

    from sae_pipeline.survey.cases.random_features import SUFFIX

    items = pl.read_parquet(folder / "case_items.parquet").filter(pl.col("case_name") == "code_error")
    measured = pl.read_parquet(folder / "measurements.parquet")
    worst, n_checked = 0.0, 0
    stored_areas = measured.filter(
        pl.col("measurement").str.starts_with("code_error_auroc_"), ~pl.col("measurement").str.ends_with(SUFFIX)
    )
    for row in stored_areas.iter_rows(named=True):
        language = row["measurement"].removeprefix("code_error_auroc_")
        mine = items.filter(pl.col("part") == language)
        if language == "python":
            mine = mine.filter(pl.col("half") == "report")
        for column, stored in (("value", row["value"]), ("control_value", row["control_value"])):
            rank_sum = float(mine[column].rank("average").filter(mine["positive"]).sum())
            n_positive = int(mine["positive"].sum())
            n_pairs = n_positive * (mine.height - n_positive)
            worst = max(worst, abs((rank_sum - n_positive * (n_positive + 1) / 2) / n_pairs - stored))
            n_checked += 1
    return Verdict(worst < 1e-9 and n_checked > 0, f"areas differ by {worst:.2g}", {"n_checked": n_checked})
