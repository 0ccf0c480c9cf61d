"""Dose curves without generating: what a clamp says at every factor, from a hundred times the maximum below 0 to as far above.

Shape legend: K factors, C candidates.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.resampling import mean_interval, paired_difference
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.output_score import Reading, Scored, rises
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.steering.concepts import read_openings
from sae_pipeline.survey.thresholds import thresholds

DOSE_FACTORS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)  # over which row 32 asks for a rise
FAR_FACTORS = (-100.0, -50.0, -20.0, -10.0, 10.0, 20.0, 50.0, 100.0)  # looked at besides
DOSES = "steering_doses"


def curves(lm: LanguageModel, sae: SparseAutoencoder, candidates: Sequence[Scored], factors: Sequence[float]) -> np.ndarray:
    """2 x K x C: rise of the probability to say the candidate's concept, and extra nats per token of the texts.

    Read along texts of their own: those of the output score have chosen the candidates.
    """
    turn, texts = read_openings()
    readings = [Reading(lm.chat(turn), lm.tokenize(text, bos=False)) for text in texts]
    return np.stack([each.numpy() for each in rises(lm, sae, candidates, readings, factors)])


def monotone(rise_KC: np.ndarray) -> np.ndarray:
    """Spearman's correlation, per candidate, of `DOSE_FACTORS` and its rises at them. C values."""
    # A concept that never becomes likelier at any dose has constant ranks and no correlation: that is no dose response.
    return np.nan_to_num([spearmanr(DOSE_FACTORS, rise_K)[0] for rise_K in rise_KC.T])


def measure_monotone(
    name: str, rise_KC: np.ndarray, control: str, control_KC: np.ndarray, n_attempted: int, seed: int, shared: dict
) -> Measurement:
    """Row 32: the share of features whose effect rises over `DOSE_FACTORS`, beside the share of `control_KC`, the same concepts'.

    Concepts are resampled with both of their curves.
    """
    ours_C, theirs_C = ((monotone(each_KC) >= thresholds().monotone).astype(float) for each_KC in (rise_KC, control_KC))
    low, high = mean_interval(ours_C, seed)
    difference, difference_low, difference_high, n = paired_difference(ours_C, theirs_C, np.arange(len(ours_C)), seed)
    return Measurement(
        name, f"share of features whose effect rises with the dose (rank correlation at least {thresholds().monotone})",
        float(ours_C.mean()), n, n_attempted, low=low, high=high, control=control, control_value=float(theirs_C.mean()),
        difference=difference, difference_low=difference_low, difference_high=difference_high, rows=DOSES, figure=DOSES, **shared,
    )  # fmt: skip


def dose_rows(
    curve_2KC: np.ndarray, factors: Sequence[float], concepts: Sequence[str], features: Sequence[int | None], control: str,
    size: int,
) -> list[dict]:  # fmt: skip
    """Rows of table `steering_doses`."""
    return [
        {
            "size": size, "concept": concepts[c], "control": control, "feature": features[c], "factor": factor,
            "rise": float(curve_2KC[0, k, c]), "extra_nats": float(curve_2KC[1, k, c]),
        }
        for c in range(len(concepts))
        for k, factor in enumerate(factors)
    ]  # fmt: skip


def doses_table(rows: Sequence[dict]) -> pl.DataFrame:
    """`rows` in order of dose."""
    return pl.DataFrame(rows, schema_overrides={"feature": pl.Int32}, infer_schema_length=None).sort(
        "control", "concept", "factor"
    )
