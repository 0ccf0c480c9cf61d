"""What `feature_families` hands to the verdicts.

Shapes: P parents.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from sae_pipeline.resampling import draws, interval
from sae_pipeline.study_survey_laws import FeatureFamilies
from sae_pipeline.survey.experiments.held_out import difference
from sae_pipeline.survey.families.links import Links
from sae_pipeline.survey.measurement import Measurement, too_few

FIGURE = "feature_families"
Pairs = Mapping[tuple[int, int], Links]


def growth_measured(sizes: Sequence[int], links: Pairs, chance: Pairs, settings: FeatureFamilies) -> list[Measurement]:
    """Children per feature of the smallest SAE: in the largest one minus in the next larger. Intervals over parents."""
    metric = "children per feature of the smallest SAE, in the largest minus in the second size"
    if len(sizes) < 3:
        return [Measurement("children_per_parent_growth", metric, None, 0, 0, **too_few("sizes", len(sizes), 3))]
    smallest, second, largest = sizes[0], sizes[1], sizes[-1]
    weight_RP = draws(smallest, settings.seed)

    def children(pairs: Pairs, child: int) -> np.ndarray:
        return pairs[smallest, child].children_of(smallest).astype(float)

    own_P, chance_P = (children(pairs, largest) - children(pairs, second) for pairs in (links, chance))
    own_R, chance_R = (weight_RP @ each_P / smallest for each_P in (own_P, chance_P))
    low, high = interval(own_R)
    paired = difference(own_R, chance_R)
    each = ", ".join(f"{child:,}: {children(links, child).mean():.2f}" for child in sizes[1:])
    judged = ", ".join(f"{links[smallest, child].n_judged:,} of {child:,}" for child in sizes[1:])
    return [
        Measurement(
            "children_per_parent_growth", metric, float(own_P.mean()), smallest, smallest, low=low, high=high,
            control="the same rule with decoder rows dealt out to other children", control_value=float(chance_P.mean()),
            difference_low=paired[0], difference_high=paired[1],
            why=f"mean children by size {each}; children with enough held-out activations {judged}", rows="feature_links",
            figure=FIGURE,
        )
    ]  # fmt: skip


def seeds_measured(recurrence: pl.DataFrame, size: int, settings: FeatureFamilies) -> list[Measurement]:
    """Recurrence across seeds of all live features, and of those that every smaller SAE lacks. Intervals over features."""
    new = recurrence.filter(pl.col("smaller_cosine") < settings.max_known_cosine)
    return [
        _share(
            "novel_features_recurring",
            f"share of the features with cosine < {settings.max_known_cosine} to every one of all smaller SAEs that recur "
            "in a second seed", new, size, settings, "nothing is new, or there is no second seed",
        ),
        _share(
            "cross_seed_share", f"share of live features with a mutual nearest one of cosine >= {settings.recurs_cosine} in a "
            "second seed", recurrence, size, settings, "the SAEs were imported: there is no second seed",
        ),
    ]  # fmt: skip


def _share(name: str, metric: str, rows: pl.DataFrame, size: int, settings: FeatureFamilies, missing: str) -> Measurement:
    if rows.is_empty():
        return Measurement(name, metric, None, 0, 0, size=size, why=missing, **too_few("features to look for", 0, 1))
    own, chance = (
        (rows[both] & (rows[cosine] >= settings.recurs_cosine)).to_numpy().astype(float)
        for both, cosine in (("mutual", "second_seed_cosine"), ("chance_mutual", "chance_cosine"))
    )
    weight_RF = draws(len(own), settings.seed)
    own_R, chance_R = weight_RF @ own / len(own), weight_RF @ chance / len(own)
    low, high = interval(own_R)
    paired = difference(own_R, chance_R)
    return Measurement(
        name, metric, float(own.mean()), len(own), len(own), size=size, low=low, high=high,
        control="random directions with the second moments of the second seed's decoder", control_value=float(chance.mean()),
        difference_low=paired[0], difference_high=paired[1], n_seeds=2, rows="feature_recurrence", figure=FIGURE,
        why=f"median cosine to the nearest {float(np.median(rows['second_seed_cosine'])):.2f}",
    )  # fmt: skip
