"""Checklist rows 21 and 22: how many features have no neuron, and no residual dimension, that they follow."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from sae_pipeline.resampling import unpaired_difference
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds

N_LISTED = 5


def correlation_shares(rows: pl.DataFrame, size: int, n_attempted: int, seed: int) -> Iterator[Measurement]:
    """From table `neuron_correlations`: shares of units with a best |r| of at most 0.3, features beside random directions."""
    features, directions = (rows.filter(unit=unit) for unit in ("sae_feature", "random_direction"))
    n_tokens = int(rows["n_tokens"][0]) if rows.height else 0
    dimensions = features["dimension"].value_counts(sort=True).head(N_LISTED)
    listed = ", ".join(f"{dimension} ({n})" for dimension, n in dimensions.iter_rows())
    measured = (
        ("low_neuron_correlation_share", "r", "MLP neuron up to the hook", "the paper has 1M tokens or more, and 0.82"),
        ("low_basis_correlation_share", "r_dimension", "residual dimension", f"most often the best: dimensions {listed}"),
        ("held_out_low_neuron_correlation_share", "r_held_out", "neuron chosen on train documents, on held-out ones", ""),
    )
    for name, column, what, note in measured:
        low, control = (np.abs(each[column].to_numpy()) <= thresholds().low_correlation for each in (features, directions))
        metric = f"share of features with |r| at most {thresholds().low_correlation} with the best {what}"
        if not len(low) or not len(control):
            active = min(len(low), len(control))
            yield Measurement(
                name, metric, None, 0, n_attempted, size, **too_few("features and directions that were active", active, 1)
            )
            continue
        found = unpaired_difference(low.astype(float), control.astype(float), seed)
        yield Measurement(
            name, metric, found.value, len(low), n_attempted, size, low=found.value_low, high=found.value_high,
            control=f"random directions of equal density ({len(control)})", control_value=found.control,
            difference=found.difference, difference_low=found.low, difference_high=found.high,
            n_control=len(control), why=f"over {n_tokens:,} tokens; {note}".removesuffix("; "), rows="neuron_correlations",
            figure="neuron_correlations",
        )  # fmt: skip
