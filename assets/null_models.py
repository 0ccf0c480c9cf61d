"""What dictionaries reach that learned nothing of the model."""

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
    checks={
        "schema": SCHEMA,
        "frozen": "an SAE with a frozen decoder has as many active features per token (within 10 %) as the trained one",
    },
)  # fmt: skip
def null_models(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Frozen decoder, principal components, random directions and a random model through the scores of a trained SAE.

    Also: planted features in superposition, and how many of them each architecture recovers. All SAEs here are small and trained
    by one recipe from one stream; the study's own are not touched.
    """
    from sae_pipeline.survey.null_models import build_null_models

    study, artifacts = store.study, store.artifacts

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            model = language_model.load(study, device)
            return build_null_models(
                corpus=artifacts.path("corpus"), activations=artifacts.path("activations"),
                random_model=artifacts.path("random_model"), language_model=model, n_features=min(study.sae.sizes),
                k=min(study.control_sae.k or 32, min(study.sae.sizes)),
                settings=study.survey.null_models, work=work, device=device.name,
            )  # fmt: skip

    yield from publish(
        context, artifacts, "null_models", build,
        checks={"schema": lambda work: schema_check(work, "null_models"), "frozen": equally_sparse},
        force=config.force, show=lambda work, _: {"figure": picture((work / "null_models.light.png").read_bytes())},
        headline=("synthetic_recovery", "explained_variance_over_frozen_decoder"),
    )  # fmt: skip


def equally_sparse(folder: Path) -> Verdict:
    """A comparison at unequal L0 would compare sparsity, not dictionaries."""
    import polars as pl

    l0 = dict(pl.read_parquet(folder / "null_model_reconstruction.parquet").group_by("arm").agg(pl.col("l0").mean()).iter_rows())
    own, frozen = l0.get("trained SAE"), l0.get("frozen decoder")
    passed = own is not None and frozen is not None and abs(frozen / own - 1) < 0.1
    return Verdict(passed, f"L0 is {own} trained and {frozen} with a frozen decoder", {"l0": own, "l0_frozen": frozen})
