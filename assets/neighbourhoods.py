"""Which features lie near which, within and across sizes."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.store import Store

N_RECOMPUTED = 32  # features per pair of sizes


@stage_asset(
    kinds={"numpy", "parquet"},
    checks={
        "schema": SCHEMA,
        "exact": f"the neighbours of {N_RECOMPUTED} features per pair of sizes equal those found by sorting all cosines",
    },
)
def neighbourhoods(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """Nearest features of every feature within its size and in every other one, and a map of all features (UMAP).

    Not part of the main run: `sae-pipeline run --job survey`. The analysis database takes it in when it is there.
    """
    from sae_pipeline.survey.build import build_neighbourhoods

    artifacts, settings = store.artifacts, store.study.survey.neighbourhoods
    folders = {size: artifacts.path("sae", size) for size in store.study.sae.sizes}
    yield from publish(
        context, artifacts, "neighbourhoods", lambda work: build_neighbourhoods(folders, settings, work),
        checks={
            "schema": lambda work: schema_check(work, "neighbourhoods"),
            "exact": lambda work: neighbours_recomputed(work, folders),
        },
        force=config.force, headline=("n_features",),
    )  # fmt: skip


def neighbours_recomputed(folder: Path, sae_folders: dict[int, Path]) -> Verdict:
    """Evenly spread features against a full sort in double precision: the stored cosines are the largest there are."""
    import numpy as np
    import polars as pl

    from sae_pipeline.survey.build import NEIGHBOURS
    from sae_pipeline.survey.neighbours import decoder_rows

    worst, n_checked = 0.0, 0
    rows = {size: decoder_rows(path).astype(np.float64) for size, path in sae_folders.items()}
    stored = pl.scan_parquet(folder / NEIGHBOURS)
    for size, rows_FD in rows.items():
        for feature in np.unique(np.linspace(0, size - 1, N_RECOMPUTED).astype(int)):
            mine = stored.filter((pl.col("size") == size) & (pl.col("feature") == feature)).collect()
            for other, others_FD in rows.items():
                cosine_F = others_FD @ rows_FD[feature]
                if other == size:
                    cosine_F = np.delete(cosine_F, feature)
                found = mine.filter(pl.col("neighbour_size") == other).sort("rank")["cosine"].to_numpy()
                worst = max(worst, float(np.abs(np.sort(cosine_F)[::-1][: len(found)] - found).max(initial=0.0)))
                n_checked += 1
    return Verdict(worst < 1e-4, f"cosines differ by {worst:.2g} from those of a full sort", {"n_checked": n_checked})
