"""Logit effects: which tokens a feature's decoder direction promotes and suppresses through the unembedding alone.

Shapes: F features, D model width, V vocabulary, G groups of the vocabulary, K tokens kept.
"""

import numpy as np
import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

FEATURES_AT_ONCE = 512  # x a vocabulary of 50,000 x 4 bytes = 100 MB
GROUP = 256


def logit_rows(
    W_dec_FD: Tensor, unembedding_DV: Tensor, token_text: np.ndarray, n: int, size: int, progress: tqdm
) -> pl.DataFrame:
    """The `n` most promoted ("+") and most suppressed ("-") tokens of every feature (table `feature_logits`).

    effect = unit decoder row x unembedding (the final norm's gain folded in, its division by the norm left out): the direct
    path to the logits, per unit of scaled activation and up to a common factor.
    """
    frames, W_dec_FD, unembedding_DV = [], W_dec_FD.to(unembedding_DV.device).float(), unembedding_DV.float()
    for first in range(0, len(W_dec_FD), FEATURES_AT_ONCE):
        effect_FV = W_dec_FD[first : first + FEATURES_AT_ONCE] @ unembedding_DV
        value_FK, token_FK = largest(effect_FV, n)
        frames.append(_rows(first, "+", value_FK, token_FK, token_text))
        value_FK, token_FK = largest(effect_FV.neg_(), n)
        frames.append(_rows(first, "-", -value_FK, token_FK, token_text))
        progress.update(len(effect_FV))
    return pl.concat(frames).sort("feature", "sign", "rank").select(pl.lit(size, pl.Int32).alias("size"), pl.all())


def largest(x_FV: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(values, indices) of the `n` largest entries of each row, in order: `topk` in one pass over memory.

    The n largest entries lie in the n groups with the largest maxima, so only those groups are searched.
    """
    n_rows, n_columns = x_FV.shape
    n = min(n, n_columns)
    n_groups = n_columns // GROUP
    if n_groups <= n:
        return x_FV.topk(n, dim=1)
    whole_FGC = x_FV[:, : n_groups * GROUP].unflatten(1, (n_groups, GROUP))
    group_FK = whole_FGC.amax(2).topk(n, dim=1).indices
    inside = (group_FK[:, :, None] * GROUP + torch.arange(GROUP, device=x_FV.device)).flatten(1)
    rest = torch.arange(n_groups * GROUP, n_columns, device=x_FV.device).expand(n_rows, -1)
    candidate = torch.cat([inside, rest], dim=1)
    best = x_FV.gather(1, candidate).topk(n, dim=1)
    return best.values, candidate.gather(1, best.indices)


def _rows(first: int, sign: str, value_FK: Tensor, token_FK: Tensor, token_text: np.ndarray) -> pl.DataFrame:
    n_rows, n = token_FK.shape
    token_id = token_FK.flatten().cpu().numpy().astype(np.int32)
    return pl.DataFrame(
        {
            "feature": np.repeat(np.arange(first, first + n_rows, dtype=np.int32), n),
            "sign": [sign] * (n_rows * n),
            "rank": np.tile(np.arange(1, n + 1, dtype=np.int16), n_rows),
            "token_id": token_id,
            "token": token_text[token_id],
            "effect": value_FK.flatten().cpu().float().numpy(),
        }
    )
