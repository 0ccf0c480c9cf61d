"""The control of a model that has learned nothing."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import Verdict
from resources.compute import Compute
from resources.store import Store

MIN_LIVE = 10


@stage_asset(
    kinds={"pytorch", "safetensors"}, pool="gpu",
    checks={"features": f"where the control is wanted, at least {MIN_LIVE} of its features are live on held-out text"},
)  # fmt: skip
def random_model(context: dg.AssetExecutionContext, config: Rebuild, store: Store, compute: Compute):
    """The study's model with every weight matrix drawn anew, and one SAE of the smallest size on part of the corpus.

    Its features are explained and scored beside those of every size: what they reach is owed to the statistics of text, not to
    anything that the model learned. Taken with few tokens, because it is a control (`random_model` in the study).
    """
    from sae_pipeline.interpret.random_model import build_random_model
    from sae_pipeline.language_model.load import reinitialized_language_model

    study = store.study

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            lm = None
            if study.random_model.n_tokens:
                lm = reinitialized_language_model(
                    study.model, study.hook, study.random_model.seed, device.name, study.model.dtype
                )
            return build_random_model(
                store.artifacts.path("corpus"), lm, study.activations, study.control_sae, study.random_model, work, device.name
            )

    yield from publish(
        context, store.artifacts, "random_model", build,
        checks={"features": lambda work: enough_live(work, study.random_model.n_tokens)},
        force=config.force, headline=("n_live", "explained_variance"),
    )  # fmt: skip


def enough_live(folder: Path, n_tokens: int) -> Verdict:
    """A control without features is none."""
    from sae_pipeline.interpret.random_model import UNITS_FILE
    from sae_pipeline.interpret.units import load_units

    n_live = sum(int((units.held_out.count_U > 0).sum()) for units in load_units(folder / UNITS_FILE))
    summary = f"{n_live} features are live; raise random_model.n_tokens, or set it to 0"
    return Verdict(not n_tokens or n_live >= MIN_LIVE, summary, {"n_live": n_live})
