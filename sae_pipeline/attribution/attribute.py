"""Attribution of a logit difference to every active feature at every position (paper, 'Computational intermediates').

    attribution = f_i(x_t) * (g_t . W_dec,i)        g = d [logit(target) - logit(baseline)] / dr at the hook, raw space

The gradient is taken at the model's own activation: the SAE's error stays in. Position 0, special tokens and massive activations
have no features, as everywhere.

Shapes: T positions, D width, P active (position, feature) pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.attribution.contrast import Contrast
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Attributed:
    """Every active pair of a prompt, in order of position and feature. CPU tensors, float32."""

    contrast: Contrast
    r_TD: Tensor  # raw activation at the hook
    gain_T: Tensor  # a pair's part of r_t is activation / gain_t times the decoder row
    logit_difference: float
    target_rank: int  # 1: the likeliest next token
    position_P: Tensor  # int64
    feature_P: Tensor  # int64
    activation_P: Tensor
    attribution_P: Tensor
    masked_T: Tensor  # bool
    gradient_TD: Tensor  # of the logit difference, raw space

    def parts(self, sae: SparseAutoencoder, pairs: Tensor) -> Tensor:
        """What each of `pairs` (indices) adds to the activation of its position: raw space, len(pairs) x D."""
        rows_PD = sae.W_dec_FD[self.feature_P[pairs].to(sae.W_dec_FD.device)].float().cpu()
        return rows_PD * (self.activation_P[pairs] / self.gain_T[self.position_P[pairs]])[:, None]


def attribute(lm: LanguageModel, sae: SparseAutoencoder, contrast: Contrast) -> Attributed:
    """Attribution of every active pair of a prompt; one forward and one backward pass of the blocks after the hook.

    Best with a model in float32: in bfloat16 the logits themselves are rounded to steps of about 0.1.
    """
    ids_1T = torch.tensor([contrast.token_ids])
    r_1TD = lm.residual(ids_1T)
    logits_V, gradient_TD = lm.last_logits_and_gradient(
        r_1TD, ids_1T, lambda logits_V: logits_V[contrast.target] - logits_V[contrast.baseline]
    )
    r_TD = r_1TD[0].float().cpu()
    codes = sae.encode_sparse(r_TD)
    gain_T = torch.full((len(r_TD),), sae.scale)
    if codes.frame is not None:
        gain_T = torch.as_tensor(codes.frame.gain).expand(len(r_TD), 1)[:, 0].float().cpu()
    masked_T = masked(lm, sae, contrast.token_ids, r_TD)
    token_P = codes.token.cpu()
    kept_P = ~masked_T[token_P]
    position_P, feature_P, activation_P = token_P[kept_P], codes.feature.cpu().long()[kept_P], codes.value.cpu()[kept_P]
    direction_PD = sae.W_dec_FD[feature_P.to(sae.W_dec_FD.device)].float().cpu()
    slope_P = (gradient_TD.float().cpu()[position_P] * direction_PD).sum(1)
    target = logits_V[contrast.target]
    return Attributed(
        contrast=contrast, r_TD=r_TD, gain_T=gain_T, logit_difference=float(target - logits_V[contrast.baseline]),
        target_rank=1 + int((logits_V > target).sum()), position_P=position_P, feature_P=feature_P, activation_P=activation_P,
        attribution_P=activation_P * slope_P / gain_T[position_P], masked_T=masked_T,
        gradient_TD=gradient_TD.float().cpu(),
    )  # fmt: skip


def masked(lm: LanguageModel, sae: SparseAutoencoder, token_ids: tuple[int, ...], r_TD: Tensor) -> Tensor:
    """Positions without features, T bool: the first, special tokens, massive activations."""
    special_T = torch.tensor([token_id in lm.special_ids for token_id in token_ids])
    masked_T = special_T | (r_TD.norm(dim=1) > sae.config["threshold_norm"])
    masked_T[0] = True
    return masked_T
