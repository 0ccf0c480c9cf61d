"""How loss, size, steps and learning rate go together."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.store import Store


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={"schema": SCHEMA, "frontier": "the stored laws are those that a fit of the stored runs gives"},
)  # fmt: skip
def scaling_laws(context: dg.AssetExecutionContext, config: Rebuild, store: Store, compute: Compute):
    """Small SAEs over features x steps and learning rates: loss against compute, the optima, the largest budget predicted.

    Also batch_topk beside the paper's ReLU-L1 at equal L0. `sae-pipeline suggest` reads the laws.
    """
    from sae_pipeline.survey.scaling_laws import build_scaling_laws

    study, artifacts = store.study, store.artifacts
    settings = study.survey.scaling_laws

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            return build_scaling_laws(
                corpus=artifacts.path("corpus"), activations=artifacts.path("activations"), k=study.control_sae.k or 32,
                settings=settings, work=work, device=device.name,
            )  # fmt: skip

    yield from publish(
        context, artifacts, "scaling_laws", build,
        checks={"schema": lambda work: schema_check(work, "scaling_laws"), "frontier": laws_refitted},
        force=config.force,
        show=lambda work, _: {
            name: picture((work / f"{name}.light.png").read_bytes()) for name in ("scaling_laws", "scaling_rates")
        },
        headline=("loss_law_r_squared", "optimal_features_exponent", "topk_over_relu_l1_at_matched_l0"),
    )  # fmt: skip


def laws_refitted(folder: Path) -> Verdict:
    """The loss law once more, from the published rows alone and without the code that made it."""
    import numpy as np
    import polars as pl

    grid = pl.read_parquet(folder / "scaling_runs.parquet").filter(experiment="grid")
    frontier = grid.group_by("flops").agg(pl.col("loss").min(), n=pl.len()).filter(pl.col("n") > 1).sort("flops")[:-1]
    if frontier.height < 2:
        return Verdict(False, "fewer than two budgets are met by two runs")
    slope = np.polyfit(np.log(frontier["flops"]), np.log(frontier["loss"]), 1)[0]
    stored = pl.read_parquet(folder / "scaling_laws.parquet").filter(quantity="loss")["exponent"][0]
    passed = stored is not None and bool(abs(stored - slope) < 1e-6)
    return Verdict(passed, f"the exponent is {stored}, the rows give {slope}", {"exponent": float(slope)})
