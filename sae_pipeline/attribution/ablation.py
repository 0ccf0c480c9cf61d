"""Switch one active feature off at one position and see what that does to the logit difference.

r_t' = r_t - f_i W_dec[i] / s: the feature's own part leaves, the SAE's error stays. Many switched-off copies of a prompt share
one forward pass of the blocks after the hook.

Shapes: T positions, D width, P pairs, B copies at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sae_pipeline.attribution.attribute import Attributed
from sae_pipeline.device import halving
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder

BATCH_TOKENS = 1024


def ablation_effects(
    lm: LanguageModel,
    sae: SparseAutoencoder,
    attributed: Attributed,
    pairs: Tensor,
    done: Callable[[int], object] = lambda n: None,
) -> Tensor:
    """Logit difference with the pair minus without it, for each of `pairs` (indices into `attributed`), float32.

    Positive: the feature speaks for the target, as in its attribution. `done(n)` is told of n finished pairs.
    """
    return attributed.logit_difference - shifted_differences(lm, sae, attributed, pairs, -1.0, done)


def finite_differences(lm: LanguageModel, sae: SparseAutoencoder, attributed: Attributed, pairs: Tensor, step: float) -> Tensor:
    """The attribution of `pairs` by central differences: each part made larger and smaller by the share `step`."""
    more_P = shifted_differences(lm, sae, attributed, pairs, step)
    less_P = shifted_differences(lm, sae, attributed, pairs, -step)
    return (more_P - less_P) / (2 * step)


def shifted_differences(
    lm: LanguageModel,
    sae: SparseAutoencoder,
    attributed: Attributed,
    pairs: Tensor,
    share: float,
    done: Callable[[int], object] = lambda n: None,
) -> Tensor:
    """The logit difference after adding `share` of each pair's own part to its position, one pair at a time."""
    contrast, found = attributed.contrast, []
    ids_1T = torch.tensor([contrast.token_ids])
    n_at_once = max(1, BATCH_TOKENS // len(contrast.token_ids))

    for pairs_B in pairs.split(n_at_once):

        def work(n_rows: int, pairs_B: Tensor = pairs_B) -> tuple[int, Tensor]:
            parts = [_differences(lm, sae, attributed, part, ids_1T, share) for part in pairs_B.split(n_rows)]
            return n_rows, torch.cat(parts)

        n_at_once, difference_B = halving(n_at_once, work)
        found.append(difference_B)
        done(len(pairs_B))
    return torch.cat(found) if found else torch.zeros(0)


def _differences(
    lm: LanguageModel, sae: SparseAutoencoder, attributed: Attributed, pairs_B: Tensor, ids_1T: Tensor, share: float
) -> Tensor:
    r_BTD = attributed.r_TD.expand(len(pairs_B), -1, -1).clone()
    r_BTD[torch.arange(len(pairs_B)), attributed.position_P[pairs_B]] += share * attributed.parts(sae, pairs_B)
    logits_BV = lm.last_logits_from(r_BTD, ids_1T.expand(len(pairs_B), -1))
    contrast = attributed.contrast
    return (logits_BV[:, contrast.target] - logits_BV[:, contrast.baseline]).float().cpu()
