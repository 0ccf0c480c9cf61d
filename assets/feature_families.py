"""Features that split, features that are new, features that recur."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.store import Store

N_RECOMPUTED = 50  # links


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={"schema": SCHEMA, "links": f"{N_RECOMPUTED} links, computed again from weights and activations, are what is stored"},
)  # fmt: skip
def feature_families(context: dg.AssetExecutionContext, config: Rebuild, store: Store, compute: Compute):
    """Parents and children between sizes by direction and firing, new features of larger SAEs, recurrence in a second seed.

    The second seed's SAE is trained here and only its directions are kept. The named query `families` lists the largest families.
    """
    from sae_pipeline.survey.feature_families import build_feature_families

    study, artifacts = store.study, store.artifacts
    saes = {size: artifacts.path("sae", size) for size in study.sae.sizes}
    stats = {size: artifacts.path("feature_stats", size) for size in study.sae.sizes}

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            return build_feature_families(
                activations=artifacts.path("activations"), sae_folders=saes, stats_folders=stats, sae=study.sae,
                settings=study.survey.feature_families, work=work, device=device.name,
            )  # fmt: skip

    yield from publish(
        context, artifacts, "feature_families", build,
        checks={
            "schema": lambda work: schema_check(work, "feature_families"),
            "links": lambda work: links_recomputed(work, saes, stats),
        },
        force=config.force, show=lambda work, _: {"figure": picture((work / "feature_families.light.png").read_bytes())},
        headline=("children_per_parent_growth", "cross_seed_share"),
    )  # fmt: skip


def links_recomputed(folder: Path, saes: dict[int, Path], stats: dict[int, Path]) -> Verdict:
    """Evenly spread links, from the published weights and by plain sets of tokens."""
    import numpy as np
    import polars as pl

    from sae_pipeline.survey.neighbours import decoder_row

    links = pl.read_parquet(folder / "feature_links.parquet")
    worst = 0.0
    chosen = np.unique(np.linspace(0, links.height - 1, N_RECOMPUTED).astype(int)) if links.height else []
    for row in links[chosen].iter_rows(named=True) if links.height else []:
        sides = [(row["parent_size"], row["parent"]), (row["child_size"], row["child"])]
        cosine = float(np.dot(*(decoder_row(saes[size], feature) for size, feature in sides)))
        parent, child = (
            set(
                pl.scan_parquet(stats[size] / "activations_held_out.parquet").filter(pl.col("feature") == feature)
                .select("token_index").collect()["token_index"]
            )
            for size, feature in sides
        )  # fmt: skip
        worst = max(worst, abs(cosine - row["cosine"]), abs(len(parent & child) / len(child) - row["parent_given_child"]))
    return Verdict(worst < 1e-4, f"a link differs by {worst:.2g} from its recomputation", {"n_checked": len(chosen)})
