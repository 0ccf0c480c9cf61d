"""batch_topk beside the paper's ReLU-L1 at equal L0, as `scaling_laws` hands it to the verdicts.

The pairs were trained to match and do so only nearly. Between the measured points of each curve explained variance is read off
straight lines in log L0, so that both sides stand at the very same L0. Explained variance alone: cross-entropy would take the
model. Shapes: R resamples, K documents, P points of a curve, L values of L0.
"""

from collections.abc import Sequence

import numpy as np

from sae_pipeline.resampling import draws, interval
from sae_pipeline.study_survey_laws import ScalingLaws
from sae_pipeline.survey.experiments.held_out import ByDocument, difference
from sae_pipeline.survey.measurement import Measurement, too_few

FIGURE = "scaling_rates"
CONTROL = "ReLU-L1 at the same L0"


def unswept(settings: ScalingLaws) -> str:
    """What the comparison leaves open: only batch_topk's rates are swept, and both architectures share one here."""
    return f"ReLU-L1's learning rate was not swept (one rate, {settings.matched_learning_rate:g})"


def common(own_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
    """The values of L0 that stand on `other_P`, moved into the range that both curves were measured over. Ascending, without
    repeats; empty where the ranges do not meet."""
    low, high = max(own_P.min(), other_P.min()), min(own_P.max(), other_P.max())
    return np.unique(other_P.clip(low, high)) if low <= high else np.empty(0)


def at_l0(l0_L: np.ndarray, l0_P: np.ndarray, value_RP: np.ndarray) -> np.ndarray:
    """A curve's values at `l0_L`, R x L: linear in log L0 between its measured points."""
    order = np.argsort(l0_P)
    return np.array([np.interp(np.log(l0_L), np.log(l0_P[order]), value_P[order]) for value_P in value_RP])


def equal_l0_measured(sums: ByDocument, pairs: Sequence[tuple[str, str]], settings: ScalingLaws) -> list[Measurement]:
    """Explained variance over all common L0 and where the two differ least, and the ratio of norms. `pairs`: (batch_topk arm,
    its ReLU-L1 arm)."""
    return [*_variance(sums, pairs, settings), _norms(sums, pairs, settings)]


def _variance(sums: ByDocument, pairs: Sequence[tuple[str, str]], settings: ScalingLaws) -> list[Measurement]:
    n, weight_RK = len(sums.n_K), draws(len(sums.n_K), settings.seed)
    l0_P, relu_l0_P = (np.array([sums.l0(pair[side]) for pair in pairs]) for side in (0, 1))
    l0_L = common(l0_P, relu_l0_P)
    names = {
        "topk_over_relu_l1_at_matched_l0": "explained variance of batch_topk, mean over equal L0",
        "topk_over_relu_l1_where_least": "explained variance of batch_topk at the L0 where it gains least",
    }
    if not len(l0_L):
        few = too_few("values of L0 that both architectures reach", 0, 1)
        return [
            Measurement(name, metric, None, 0, n, control=CONTROL, rows="scaling_runs", **few) for name, metric in names.items()
        ]

    def read(side: int, weights_RK: np.ndarray | None) -> np.ndarray:
        value_RP = np.stack([sums.explained_variance(pair[side], weights_RK) for pair in pairs], axis=1)
        return at_l0(l0_L, (l0_P, relu_l0_P)[side], value_RP)

    own_L, relu_L = (read(side, None)[0] for side in (0, 1))
    own_RL, relu_RL = (read(side, weight_RK) for side in (0, 1))
    least = int(np.argmin(own_L - relu_L))
    each = "; ".join(f"L0 {l0:.1f}: {own:.3f} and {relu:.3f}" for l0, own, relu in zip(l0_L, own_L, relu_L, strict=True))
    # Where the two differ least is found anew in every resample.
    found = [
        (own_L.mean(), relu_L.mean(), own_RL.mean(1), difference(own_RL.mean(1), relu_RL.mean(1))),
        (own_L[least], relu_L[least], own_RL[:, least], interval((own_RL - relu_RL).min(1))),
    ]
    return [
        Measurement(
            name, metric, float(own), n, n, low=interval(own_R)[0], high=interval(own_R)[1], control=CONTROL,
            control_value=float(relu), difference_low=paired[0], difference_high=paired[1],
            why=f"batch_topk and ReLU-L1 at {each}; linear in log L0 between trained points; one seed; "
            f"{unswept(settings)}; no cross-entropy",
            rows="scaling_runs", figure=FIGURE,
        )
        for (name, metric), (own, relu, own_R, paired) in zip(names.items(), found, strict=True)
    ]  # fmt: skip


def _norms(sums: ByDocument, pairs: Sequence[tuple[str, str]], settings: ScalingLaws) -> Measurement:
    # By rule the densest pair: reconstructions without bias have a ratio near the root of their explained variance.
    weight_RK = draws(len(sums.n_K), settings.seed)
    best, relu = max(pairs, key=lambda pair: sums.l0(pair[1]))
    own_R, control_R = sums.norm_ratio(best, weight_RK), sums.norm_ratio(relu, weight_RK)
    paired = difference(own_R, control_R)
    low, high = interval(own_R)
    root = float(sums.explained_variance(best)[0]) ** 0.5
    return Measurement(
        "reconstruction_norm_ratio", f"mean ‖x_hat‖ / ‖x‖ of batch_topk at L0 {sums.l0(best):.1f}",
        float(sums.norm_ratio(best)[0]), len(sums.n_K), len(sums.n_K), low=low, high=high,
        control=f"ReLU-L1 at L0 {sums.l0(relu):.1f}", control_value=float(sums.norm_ratio(relu)[0]),
        difference_low=paired[0], difference_high=paired[1],
        why=f"at the densest matched L0; the root of its explained variance, near which unbiased ones lie, is {root:.3f}; "
        f"{unswept(settings)}",
        rows="scaling_runs", figure=FIGURE,
    )  # fmt: skip
