"""Directions from examples, without an SAE: difference of means, linear probe, first principal component.

All live in raw residual space, are unit vectors, and point from the neutral sentences towards the concept's.

Shape legend: N tokens (P of the concept, Q neutral), T positions, D model width.
"""

from collections.abc import Sequence

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from sae_pipeline.language_model.model import LanguageModel

PROBE_C = 0.01  # inverse strength of the penalty: some dozens of tokens in hundreds of dimensions


def token_residuals(lm: LanguageModel, texts: Sequence[str], threshold_norm: float) -> Tensor:
    """r_ND float32 of the texts' tokens, massive activations and the start token left out."""
    found = []
    for text in texts:
        r_TD = lm.residual(torch.tensor([lm.tokenize(text, bos=True)]))[0].float().cpu()
        keep_T = r_TD.norm(dim=1) <= threshold_norm
        keep_T[0] = False
        found.append(r_TD[keep_T])
    return torch.cat(found)


def difference_of_means(r_PD: Tensor, r_QD: Tensor) -> Tensor:
    """Unit vector from the mean of the neutral tokens to that of the concept's."""
    return _unit(r_PD.mean(0) - r_QD.mean(0))


def probe(r_PD: Tensor, r_QD: Tensor) -> Tensor:
    """Unit weight vector of a logistic regression. One scale for all dimensions: raw space stays the space."""
    r_ND = torch.cat([r_PD, r_QD])
    x_ND = (r_ND - r_ND.mean(0)) / r_ND.std().clamp(min=1e-6)
    labels_N = torch.cat([torch.ones(len(r_PD)), torch.zeros(len(r_QD))])
    fitted = LogisticRegression(C=PROBE_C, max_iter=500).fit(x_ND.numpy(), labels_N.numpy())
    return _unit(torch.from_numpy(fitted.coef_[0]).float())


def first_component(r_PD: Tensor, r_QD: Tensor) -> Tensor:
    """First right singular vector of the concept's tokens around the neutral mean, turned towards the concept."""
    centred_PD = r_PD - r_QD.mean(0)
    direction_D = torch.linalg.svd(centred_PD, full_matrices=False).Vh[0]
    return _unit(direction_D * torch.sign(centred_PD.mean(0) @ direction_D))


def _unit(direction_D: Tensor) -> Tensor:
    return direction_D / direction_D.norm().clamp(min=1e-12)
