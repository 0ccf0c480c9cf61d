"""What clamping the features of the case studies does."""

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
    checks={"schema": SCHEMA, "recomputed": "values and controls of the log-odds clamps follow from the single prompts"},
)  # fmt: skip
def case_clamps(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Code errors, pronouns, praise, persona, a secret, unsafe code and one wrong behaviour under a clamp, on the largest size.

    Feature and factor chosen on half A, reported on half B, beside random directions through the same search and choice, and
    beside random features. Read off next-token probabilities. Part of `sae-pipeline run --job survey`.
    """
    from sae_pipeline.survey.cases.build import open_world
    from sae_pipeline.survey.cases.build_clamps import build_case_clamps

    study, artifacts, size = store.study, store.artifacts, max(store.study.sae.sizes)

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            world = open_world(
                language_model.load(study, device), artifacts.path("corpus"), artifacts.path("activations"),
                artifacts.path("feature_stats", size), artifacts.path("sae", size), study.survey.case_studies,
            )  # fmt: skip
            return build_case_clamps(world, work)

    yield from publish(
        context, artifacts, "case_clamps", build,
        checks={"schema": lambda work: schema_check(work, "case_clamps"), "recomputed": changes_recomputed},
        force=config.force, show=lambda work, _: {"clamps": picture((work / "case_clamps.light.png").read_bytes())},
        headline=("n_measurements", "n_not_testable"),
    )  # fmt: skip


def changes_recomputed(folder: Path) -> Verdict:
    """Mean change over the prompts of arm 0, and over those of its random directions or features, of all measurements in nats."""
    import polars as pl

    from sae_pipeline.survey.cases.random_features import SUFFIX

    doses = pl.read_parquet(folder / "case_doses.parquet").with_columns(change=pl.col("after") - pl.col("before"))
    measured = pl.read_parquet(folder / "measurements.parquet").filter(pl.col("metric").str.contains("log P", literal=True))
    worst, n_checked = 0.0, 0
    for row in measured.iter_rows(named=True):
        name = row["measurement"].removesuffix(SUFFIX)
        rivals = "random_feature" if row["measurement"].endswith(SUFFIX) else "random_direction"
        mine = doses.filter(pl.col("measurement") == name)
        for stored, control in ((row["value"], "none"), (row["control_value"], rivals)):
            if stored is None:  # no other live feature stood beside it, and the measurement says so
                continue
            change = mine.filter(pl.col("control") == control)["change"].to_numpy()
            worst = max(worst, abs(float(change.mean()) - stored) if len(change) else float("inf"))
            n_checked += 1
    return Verdict(worst < 1e-9, f"changes differ by {worst:.2g}", {"n_checked": n_checked})
