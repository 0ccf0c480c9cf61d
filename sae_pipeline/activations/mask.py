"""The token mask: which tokens take no part in training, scaling, statistics and metrics, and why.

Shapes: B blocks, T positions. Reasons are the indices of `reader.REASONS`.
"""

import torch
from torch import Tensor

from sae_pipeline.activations.reader import REASONS

POSITION_0, SPECIAL, MASSIVE = REASONS.index("position_0"), REASONS.index("special"), REASONS.index("massive")


def token_mask(
    token_ids_BT: Tensor, norm_BT: Tensor, held_out_B: Tensor, special_ids: frozenset[int], above_median: float
) -> tuple[Tensor, float, float]:
    """(reason_BT uint8, threshold norm, training median norm).

    Position 0 and special tokens first; then, among the rest, tokens whose norm exceeds `above_median` times the training
    median: massive activations, which carry most of the raw variance and nothing that a feature could explain.
    """
    reason_BT = torch.zeros(token_ids_BT.shape, dtype=torch.uint8)
    reason_BT[torch.isin(token_ids_BT, torch.tensor(sorted(special_ids), dtype=token_ids_BT.dtype))] = SPECIAL
    reason_BT[:, 0] = POSITION_0
    training_N = norm_BT[(reason_BT == 0) & ~held_out_B[:, None]]
    median = float(training_N.double().quantile(0.5)) if training_N.numel() < 2**24 else float(training_N.median())
    threshold = above_median * median
    reason_BT[(reason_BT == 0) & (norm_BT > threshold)] = MASSIVE
    return reason_BT, threshold, median
