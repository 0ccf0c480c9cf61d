"""Activations to one sparse autoencoder per size."""

from itertools import pairwise
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets.pictures import picture
from assets.publishing import Rebuild, publish, stage_asset
from assets.several import publish_each
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.store import Store


class TrainSae(Rebuild):
    """Run configuration of the SAE asset."""

    train_with: list[int] = Field(
        default=[], description="other sizes to train from the same pass over the activations; their own runs then only publish"
    )


@stage_asset(
    kinds={"pytorch", "safetensors"}, pool="gpu", takes_ranges=True,
    checks={
        "schema": SCHEMA,
        "finite": "every weight is finite, decoder rows have norm 1, and the config fits the weights",
        "trained": "the training history has rows and ends where the config says that training ended (imported: it is empty)",
    },
)  # fmt: skip
def sae(context: dg.AssetExecutionContext, config: TrainSae, store: Store, compute: Compute):
    """A sparse autoencoder with as many features as the partition says, in its published form.

    Decoder rows have norm 1 (the norm is folded into the encoder), so a stored activation is the feature activation in scaled
    space. Checkpoints are kept while it trains; a killed training goes on from the last one. A single run over several sizes
    trains them from one pass over the activations, to the same bits. A study with `source: pretrained` imports it instead, and
    `import.json` says what its file and the study disagree on.
    """

    def one(size: int, together: list[int]):
        yield from publish(
            context, store.artifacts, "sae", lambda work: build(context, store, compute, size, together, work), size=size,
            checks={"schema": lambda work: schema_check(work, "sae"), "finite": weights_are_sound, "trained": history_is_whole},
            force=config.force, show=lambda work, _: {"training": picture(png)} if (png := curves(work)) else {},
            headline=("n_tokens_trained", "explained_variance_batch", "l0_sample", "explained_variance_sample", "n_differences"),
        )  # fmt: skip

    if len(sizes := [int(key) for key in context.partition_keys]) == 1:
        yield from one(sizes[0], config.train_with)
    else:
        yield from publish_each(context, sizes, one)


def build(context: dg.AssetExecutionContext, store: Store, compute: Compute, size: int, together: list[int], work: Path):
    """Train or import the SAE of `size` in `work`; `together`: what else to train from the same pass."""
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.formats.build import build_import
    from sae_pipeline.sae.build import build_sae
    from sae_pipeline.study import PretrainedSae

    study, folder = store.study, store.artifacts.path("activations")
    origin = {"model": study.model.model_dump(mode="json"), "hook": study.hook.model_dump(mode="json"), "bos": study.corpus.bos}
    with compute.lease(context.log.info) as device:
        if isinstance(study.sae, PretrainedSae):
            return build_import(ActivationReader.open(folder), study, size, work, origin, device.name)
        with store.artifacts.also_building("sae", [other for other in together if other != size]) as companions:
            return build_sae(ActivationReader.open(folder), study.sae, size, work, origin, device.name, companions)


def weights_are_sound(folder: Path) -> Verdict:
    """Load the SAE as any reader does, and look at every tensor."""
    import torch

    from sae_pipeline.errors import UserError
    from sae_pipeline.sae.autoencoder import SparseAutoencoder

    try:
        model = SparseAutoencoder.load(folder)
    except UserError as error:
        return Verdict(False, error.what)
    bad = [name for name, value in model.weights.items() if not bool(torch.isfinite(value).all())]
    off = float((model.W_dec_FD.norm(dim=1) - 1).abs().max())
    summary = f"not finite: {', '.join(bad)}" if bad else f"a decoder row's norm is {off:.1e} away from 1"
    return Verdict(not bad and off < 1e-4, summary, {"n_features": model.n_features, "largest_norm_error": off})


def history_is_whole(folder: Path) -> Verdict:
    """The last row of the history is the end of training, as near as the spacing of its rows allows."""
    import json

    import polars as pl

    n_tokens = pl.read_parquet(folder / "history.parquet", columns=["n_tokens"])["n_tokens"].to_list()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("source") == "pretrained":
        return Verdict(not n_tokens, f"an imported SAE has {len(n_tokens)} rows of training history")
    wanted, seen = config["n_tokens_trained"], n_tokens[-1] if n_tokens else 0
    spacing = max((after - before for before, after in pairwise(n_tokens)), default=1)
    summary = f"the history ends at {seen} tokens, the config says {wanted}"
    return Verdict(0 <= wanted - seen < spacing, summary, {"n_rows": len(n_tokens)})


def curves(folder: Path) -> bytes | None:
    """The training curves of this size; None for an imported one."""
    import polars as pl

    from sae_pipeline.plots.training import training_curves

    history = pl.read_parquet(folder / "history.parquet")
    return training_curves(history) if len(history) else None
