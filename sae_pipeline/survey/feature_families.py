"""The stage `feature_families`: features that split into narrower ones, features that smaller SAEs lack, features that recur.

Shapes: F features, D width, P parents.
"""

import shutil
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.plots.families import draw_families
from sae_pipeline.sae.autoencoder import CONFIG
from sae_pipeline.sae.build import build_sae
from sae_pipeline.store import Outcome
from sae_pipeline.study import PretrainedSae, Sae
from sae_pipeline.study_survey_laws import FeatureFamilies
from sae_pipeline.survey.families.links import LinkRule, Links, find_links, shuffled
from sae_pipeline.survey.families.measured import growth_measured, seeds_measured
from sae_pipeline.survey.families.seeds import chance_rows, mutual, nearest
from sae_pipeline.survey.measurement import write_measurements
from sae_pipeline.survey.neighbours import decoder_rows
from sae_pipeline.tables.schemas import conform, empty

LINKS, RECURRENCE = "feature_links.parquet", "feature_recurrence.parquet"
SECOND = "second_seed"


def build_feature_families(
    *, activations: Path, sae_folders: Mapping[int, Path], stats_folders: Mapping[int, Path], sae: Sae | PretrainedSae,
    settings: FeatureFamilies, work: Path, device: str = "cpu",
) -> Outcome:  # fmt: skip
    """Write both tables, the figure and the measurements. The second seed's checkpoints in `work` survive a kill.

    Of imported SAEs there is no second seed: what needs one is then reported as not measured.
    """
    sizes = sorted(sae_folders)
    rows = {size: decoder_rows(folder) for size, folder in sae_folders.items()}
    fires = {size: SparseActivations.open(folder / "activations_held_out.parquet") for size, folder in stats_folders.items()}
    rule = LinkRule(settings.min_cosine, settings.min_parent_given_child, settings.min_activations)

    def links_of(parent: int, child: int, child_FD: np.ndarray) -> Links:
        return find_links(rows[parent], child_FD, fires[parent], fires[child], rule)

    links = {(parent, child): links_of(parent, child, rows[child]) for parent, child in combinations(sizes, 2)}
    chance = {
        pair: links_of(*pair, shuffled(rows[pair[1]], settings.seed)) for pair in links if pair[0] == sizes[0]
    }  # fmt: skip
    tables = [_link_rows(parent, child, found) for (parent, child), found in links.items()]
    conform("feature_links", pl.concat([empty("feature_links"), *tables])).write_parquet(work / LINKS)

    larger = sizes[1:] or sizes
    parts = [empty("feature_recurrence")]
    if isinstance(sae, Sae):
        for size in larger:
            second_FD = _second_seed(activations, sae, size, settings, work, device)
            parts.append(_recurrence(rows, size, second_FD, fires[size].count_U > 0, settings))
    recurrence = conform("feature_recurrence", pl.concat(parts, how="diagonal_relaxed"))
    recurrence.write_parquet(work / RECURRENCE)
    for name, png in draw_families(links, sizes, recurrence).items():
        (work / name).write_bytes(png)
    measurements = [
        *growth_measured(sizes, links, chance, settings),
        *(one for size in larger for one in seeds_measured(recurrence.filter(pl.col("size") == size), size, settings)),
    ]
    write_measurements(work, "feature_families", measurements)
    if (work / SECOND).exists():
        shutil.rmtree(work / SECOND)
    counts = {f"n_links {parent} to {child}": len(found.child_L) for (parent, child), found in links.items()}
    shown = {f"{each.measurement}{'' if each.size is None else f'/{each.size}'}": each.value for each in measurements}
    return Outcome(shown | counts)


def _second_seed(activations: Path, sae: Sae, size: int, settings: FeatureFamilies, work: Path, device: str) -> np.ndarray:
    """Decoder rows of the same SAE from another seed, F x D."""
    folder = work / SECOND / str(size)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG).is_file():
        changed = {"seed": sae.seed + 1, "epochs": min(sae.epochs, settings.epochs), "learning_rate": sae.learning_rate_of(size)}
        build_sae(ActivationReader.open(activations), sae.model_copy(update=changed), size, folder, None, device)
    return decoder_rows(folder)


def _recurrence(
    rows: Mapping[int, np.ndarray], size: int, second_FD: np.ndarray, alive_F: np.ndarray, settings: FeatureFamilies
) -> pl.DataFrame:
    """One row per live feature of `size`: how near the smaller SAEs and the second seed come to it, and how near chance comes."""
    own_FD = rows[size]
    smaller = [nearest(own_FD, rows[other])[1] for other in rows if other < size]
    # Of a single size there is none smaller, and nothing is new.
    known_F = np.max(smaller, axis=0) if smaller else np.ones(len(own_FD))
    there_F, cosine_F, mutual_F = mutual(own_FD, second_FD)
    _, chance_F, chance_mutual_F = mutual(own_FD, chance_rows(second_FD, settings.seed))
    frame = pl.DataFrame({
        "size": np.full(len(own_FD), size), "feature": np.arange(len(own_FD)), "smaller_cosine": known_F,
        "second_seed_feature": there_F, "second_seed_cosine": cosine_F, "mutual": mutual_F, "chance_cosine": chance_F,
        "chance_mutual": chance_mutual_F,
    }).with_columns(pl.col("smaller_cosine", "second_seed_cosine", "chance_cosine").clip(-1, 1))  # fmt: skip
    return frame.filter(pl.Series(alive_F))


def _link_rows(parent: int, child: int, found: Links) -> pl.DataFrame:
    n = len(found.child_L)
    return conform("feature_links", pl.DataFrame({
        "parent_size": np.full(n, parent), "parent": found.parent_L, "child_size": np.full(n, child), "child": found.child_L,
        "cosine": found.cosine_L.clip(-1, 1), "parent_given_child": found.parent_given_child_L,
        "child_given_parent": found.child_given_parent_L, "n_child": found.n_child_L,
    }))  # fmt: skip
