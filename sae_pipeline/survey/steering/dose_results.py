"""Rows 32 and 33: the features of the comparison at every dose, beside random living ones that are asked for the same words.

Each of these is the best by output score of as many random ones as the feature had candidates; none had to fire on the concept.
Doses stand beside those of the random direction that went through both choices, too.

Shapes: K factors, C features, Q questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
from sae_pipeline.survey.steering.cost import CAPABILITY_FACTORS, Costs, costs, sweet_spot
from sae_pipeline.survey.steering.dose import DOSE_FACTORS, DOSES, FAR_FACTORS, curves, dose_rows, doses_table, measure_monotone
from sae_pipeline.survey.steering.features import N_CANDIDATES, best_of_groups
from sae_pipeline.survey.steering.methods import RANDOM, Steerable
from sae_pipeline.survey.thresholds import thresholds

COSTS = "steering_costs"
RIVALS = "the best of as many random living features by the same output score"
ALONG = "random directions through both choices of the feature: where they point, what they make the model say"
NEAR = 1.0  # the factor at which costs are reported as one number


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


@dataclass(frozen=True)
class Doses:
    """The measurements, and tables `steering_costs` and `steering_doses`."""

    measured: list[Measurement]
    costs: pl.DataFrame
    curves: pl.DataFrame


def measure_doses(
    lm: LanguageModel, sae: SparseAutoencoder, maximum_F: Tensor, found: Sequence[Steerable], held_out_BT: Tensor,
    settings: SteeringComparison,
) -> Doses:  # fmt: skip
    """Everything about doses that needs no generated text."""
    size, own = sae.n_features, [each.choice.selected for each in found]
    random = best_of_groups(lm, sae, random_groups(maximum_F, own, settings.seed))
    ours_2KC, theirs_2KC = (curves(lm, sae, candidates, DOSE_FACTORS) for candidates in (own, random))
    directions = [each.directions[RANDOM] for each in found]
    far_2KC, along_2KC = (curves(lm, sae, each, FAR_FACTORS) for each in (own, directions))
    near_2KC = curves(lm, sae, directions, DOSE_FACTORS)
    names, features = [each.topic.name for each in found], [each.feature for each in own]
    doses = [
        *dose_rows(np.concatenate([ours_2KC, far_2KC], 1), (*DOSE_FACTORS, *FAR_FACTORS), names, features, "none", size),
        *dose_rows(theirs_2KC, DOSE_FACTORS, names[: len(random)], [each.feature for each in random], "random_feature", size),
        *dose_rows(
            np.concatenate([near_2KC, along_2KC], 1), (*DOSE_FACTORS, *FAR_FACTORS), names, [None] * len(names), RANDOM, size
        ),
    ]  # fmt: skip
    # Two concepts may have chosen the same feature; what it costs is measured once.
    priced = list({each.feature: each for each in own}.values())[: settings.n_capability_features]
    rivals, questions = random[: len(priced)], read_questions()
    chosen, beside = (costs(lm, sae, candidates, questions, held_out_BT) for candidates in (priced, rivals))
    shared = {"size": size, "files_sha": committed()}
    priced_by = shared | {"control": RIVALS, "rows": COSTS, "figure": DOSES}
    first_Q, every_Q = np.array([each.first for each in questions]), np.ones(len(questions), bool)
    measured = [
        measure_monotone(name, ours_2KC[0], control, beside_2KC[0], settings.n_concepts, settings.seed, shared)
        for name, control, beside_2KC in (
            ("monotone_dose_share", RIVALS, theirs_2KC), ("monotone_dose_share_over_random_direction", ALONG, near_2KC)
        )
    ]  # fmt: skip
    measured += [
        _sweet_spot("sweet_spot_width", chosen, beside, first_Q, settings.seed, priced_by),
        _sweet_spot("sweet_spot_width_all_questions", chosen, beside, every_Q, settings.seed, priced_by),
        _cost("held_out_cost", "held-out token", chosen.extra_nats_KC, beside.extra_nats_KC, settings.seed, priced_by),
        _cost(
            "right_answer_cost", "token of a right answer", chosen.answer_nats_KC, beside.answer_nats_KC, settings.seed, priced_by
        ),
    ]  # fmt: skip
    rows = [*_rows(priced, chosen, first_Q, "none"), *_rows(rivals, beside, first_Q, "random_feature")]
    return Doses(measured, pl.DataFrame([{"size": size} | row for row in rows]), doses_table(doses))


def _sweet_spot(name: str, chosen: Costs, beside: Costs, asked_Q: np.ndarray, seed: int, shared: dict) -> Measurement:
    """`asked_Q`: which questions count, Q bool."""
    plain = float(chosen.correct_Q[asked_Q].mean())
    ours_CK, theirs_CK = (each.correct_KCQ[:, :, asked_Q].mean(2).T for each in (chosen, beside))
    spot, n = sweet_spot(plain, ours_CK.mean(0)), len(ours_CK)

    def width(mean_K: np.ndarray) -> float:
        low, high = sweet_spot(plain, mean_K)
        return high - low

    def widths(accuracy_CK: np.ndarray, axis: int) -> np.ndarray:
        """Of every resample the width of the range, from the mean accuracy of its features."""
        return np.apply_along_axis(width, -1, accuracy_CK.mean(axis))

    # The random features are others than the features: either is resampled by itself.
    drawn = unpaired_difference(ours_CK, theirs_CK, seed, mean=widths)
    return Measurement(
        name,
        f"width of the range of factors that costs at most {thresholds().max_drop:.0%} of accuracy, {asked_Q.sum()} questions",
        drawn.value, n, n, low=drawn.value_low, high=drawn.value_high, control_value=drawn.control, difference=drawn.difference,
        difference_low=drawn.low, difference_high=drawn.high, ceiling_metric="accuracy without steering (chance 1/3)",
        ceiling=plain, ceiling_threshold=thresholds().answers_right,
        why=f"from {spot[0]:g} to {spot[1]:g} times the maximum", **shared,
    )  # fmt: skip


def _cost(name: str, of: str, ours_KC: np.ndarray, theirs_KC: np.ndarray, seed: int, shared: dict) -> Measurement:
    """What a clamp costs at `NEAR`, beside random features."""
    ours, theirs = (each_KC[CAPABILITY_FACTORS.index(NEAR)] for each_KC in (ours_KC, theirs_KC))
    difference, low, high, n = paired_difference(ours, theirs, np.arange(len(ours)), seed)
    own_low, own_high = mean_interval(ours, seed)
    return Measurement(
        name, f"extra nats per {of} under a clamp at {NEAR:g} times the maximum", float(ours.mean()), n, n,
        low=own_low, high=own_high, control_value=float(theirs.mean()), difference=difference, difference_low=low,
        difference_high=high, **shared,
    )  # fmt: skip


def _rows(candidates: Sequence[Candidate], found: Costs, first_Q: np.ndarray, control: str) -> list[dict]:
    return [
        {
            "feature": candidate.feature, "control": control, "factor": factor,
            "accuracy": float(found.correct_KCQ[k, c].mean()), "accuracy_first": float(found.correct_KCQ[k, c, first_Q].mean()),
            "answer_nats": float(found.answer_nats_KC[k, c]), "extra_nats": float(found.extra_nats_KC[k, c]),
        }
        for c, candidate in enumerate(candidates)
        for k, factor in enumerate(CAPABILITY_FACTORS)
    ]  # fmt: skip
