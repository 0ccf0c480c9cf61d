"""Rows 32 and 33: the features of the comparison at every dose, beside random living ones that are asked for the same words.

Each of these is the best by output score of as many random ones as the feature had candidates.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.resampling import mean_interval, paired_difference, unpaired_difference
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.output_score import Candidate
from sae_pipeline.study_survey import SteeringComparison
from sae_pipeline.survey.measurement import Measurement
from sae_pipeline.survey.steering.concepts import committed, read_questions
from sae_pipeline.survey.steering.dose import CAPABILITY_FACTORS, MAX_DROP, MONOTONE, Costs, costs, monotone, sweet_spot
from sae_pipeline.survey.steering.features import N_CANDIDATES, best_of_groups
from sae_pipeline.survey.steering.methods import Steerable

COSTS = "steering_costs"
RIVALS = "the best of as many random living features by the same output score"
NEAR = 1.0  # the factor at which the cost on held-out text is reported


def held_out_blocks(corpus: CorpusReader, settings: SteeringComparison) -> Tensor:
    """Token blocks of held-out documents, drawn by the section's seed."""
    held_out = np.flatnonzero(corpus.held_out_B)
    drawn = np.random.default_rng(settings.seed).permutation(held_out)[: settings.n_cost_blocks]
    return torch.from_numpy(corpus.token_ids_BT[np.sort(drawn)].astype(np.int64))


def random_groups(maximum_F: Tensor, own: Sequence[Candidate], seed: int) -> list[list[Candidate]]:
    """For every candidate a group of random living features that are asked for its words; no feature is in two groups."""
    alive = torch.nonzero(maximum_F > 0).squeeze(1)
    drawn = alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))]
    groups = drawn.split(max(1, min(N_CANDIDATES, len(alive) // len(own))))
    return [
        [Candidate(feature, float(maximum_F[feature]), each.says) for feature in group.tolist()]
        for group, each in zip(groups, own, strict=False)
    ]


def measure_doses(
    lm: LanguageModel, sae: SparseAutoencoder, maximum_F: Tensor, found: Sequence[Steerable], held_out_BT: Tensor,
    settings: SteeringComparison,
) -> tuple[list[Measurement], pl.DataFrame]:  # fmt: skip
    """The measurements, and table `steering_costs`: one row per clamp."""
    own = [each.choice.selected for each in found]
    random = best_of_groups(lm, sae, random_groups(maximum_F, own, settings.seed))
    ours, theirs = (monotone(lm, sae, candidates) >= MONOTONE for candidates in (own, random))
    difference, low, high, n = paired_difference(ours, theirs, np.arange(len(ours)), settings.seed)
    own_low, own_high = mean_interval(ours, settings.seed)
    # Two concepts may have chosen the same feature; what it costs is measured once.
    priced = list({each.feature: each for each in own}.values())[: settings.n_capability_features]
    rivals, questions = random[: len(priced)], read_questions()
    chosen, beside = (costs(lm, sae, candidates, questions, held_out_BT) for candidates in (priced, rivals))
    shared = {"size": sae.n_features, "files_sha": committed(), "control": RIVALS, "rows": COSTS}
    measured = [
        Measurement(
            "monotone_dose_share", f"share of features whose effect rises with the dose (rank correlation at least {MONOTONE})",
            float(ours.mean()), n, settings.n_concepts, low=own_low, high=own_high, control_value=float(theirs.mean()),
            difference=difference, difference_low=low, difference_high=high, **shared,
        ),
        _sweet_spot(chosen, beside, settings.seed, shared), _held_out_cost(chosen, beside, settings.seed, shared),
    ]  # fmt: skip
    rows = [*_rows(priced, chosen, "none"), *_rows(rivals, beside, "random_feature")]
    return measured, pl.DataFrame([{"size": sae.n_features} | row for row in rows])


def _sweet_spot(chosen: Costs, beside: Costs, seed: int, shared: dict) -> Measurement:
    spot, n = sweet_spot(chosen.accuracy, chosen.accuracy_KC.mean(1)), chosen.accuracy_KC.shape[1]

    def width(mean_K: np.ndarray) -> float:
        low, high = sweet_spot(chosen.accuracy, mean_K)
        return high - low

    def widths(accuracy_CK: np.ndarray, axis: int) -> np.ndarray:
        """Of every resample the width of the range, from the mean accuracy of its features."""
        return np.apply_along_axis(width, -1, accuracy_CK.mean(axis))

    # The random features are others than the features: either is resampled by itself.
    drawn = unpaired_difference(chosen.accuracy_KC.T, beside.accuracy_KC.T, seed, mean=widths)
    return Measurement(
        "sweet_spot_width", f"width of the range of factors that costs at most {MAX_DROP:.0%} of accuracy", drawn.value, n, n,
        low=drawn.value_low, high=drawn.value_high, control_value=drawn.control, difference=drawn.difference,
        difference_low=drawn.low, difference_high=drawn.high, ceiling_metric="accuracy without steering (chance 1/3)",
        ceiling=chosen.accuracy, ceiling_threshold=0.5, why=f"from {spot[0]:g} to {spot[1]:g} times the maximum", **shared,
    )  # fmt: skip


def _held_out_cost(chosen: Costs, beside: Costs, seed: int, shared: dict) -> Measurement:
    at = CAPABILITY_FACTORS.index(NEAR)
    ours, theirs = chosen.extra_nats_KC[at], beside.extra_nats_KC[at]
    difference, low, high, n = paired_difference(ours, theirs, np.arange(len(ours)), seed)
    own_low, own_high = mean_interval(ours, seed)
    return Measurement(
        "held_out_cost", f"extra nats per held-out token under a clamp at {NEAR:g} times the maximum", float(ours.mean()), n, n,
        low=own_low, high=own_high, control_value=float(theirs.mean()), difference=difference, difference_low=low,
        difference_high=high, why=f"{chosen.cross_entropy:.3f} nats without a clamp", **shared,
    )  # fmt: skip


def _rows(candidates: Sequence[Candidate], found: Costs, control: str) -> list[dict]:
    return [
        {
            "feature": candidate.feature, "control": control, "factor": factor, "accuracy": float(found.accuracy_KC[k, c]),
            "extra_nats": float(found.extra_nats_KC[k, c]),
        }
        for c, candidate in enumerate(candidates)
        for k, factor in enumerate(CAPABILITY_FACTORS)
    ]  # fmt: skip
