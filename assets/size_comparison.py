"""How the sizes compare."""

import dagster as dg

from assets.pictures import picture
from assets.publishing import Metadata, Rebuild, publish, stage_asset
from resources.store import Store


@stage_asset(kinds={"duckdb", "matplotlib"}, checks={})
def size_comparison(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """One tidy table of every metric by size, each beside its controls, and the figures of the study.

    Figures: quality, training, masking, densities, specificity by activation interval, steering dose and effect, and the
    activations of each chosen feature by specificity score.
    """
    from sae_pipeline.plots.comparison import build_size_comparison, figure_file
    from sae_pipeline.plots.figure import LIGHT

    artifacts = store.artifacts

    def show(folder, manifest) -> Metadata:
        names = manifest.metadata["figures"].split(", ")
        return {f"figure {name}": picture((folder / figure_file(name, LIGHT)).read_bytes()) for name in names if name}

    database = artifacts.root / "analysis.duckdb"
    yield from publish(
        context, artifacts, "size_comparison", lambda work: build_size_comparison(database, work),
        checks={}, force=config.force, show=show, headline=("n_rows",),
    )  # fmt: skip
