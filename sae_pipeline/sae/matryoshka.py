"""Matryoshka BatchTopK: nested dictionaries, each of which must reconstruct on its own (Bussmann et al. 2025).

Active pairs are those of `batch_topk`. Loss per token: mean over prefixes m of ‖x - b_dec - sum over i < m of f_i W_dec,i‖² (the
paper's sum, divided by the number of prefixes, so that learning rates carry over). Early features must be useful without the
later ones, which keeps general features from being split up among special cases.

A feature takes part in every prefix that is longer than its index, so its gradient is the sum of theirs: prefixes are cumulative
sums over groups of features, gradients are cumulative sums from the other end.

Shapes: N tokens, F features, D width, `_E` entries of a group.
"""

import torch

from sae_pipeline.sae.architecture import Batch, Gradients, active_part
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.entries import Entries


def prefix_lengths(n_features: int, shares: tuple[float, ...]) -> list[int]:
    """Features of each prefix, increasing; every one has at least one feature more than the one before."""
    lengths: list[int] = []
    for share in shares:
        lengths.append(max(round(share * n_features), lengths[-1] + 1 if lengths else 1))
    return lengths


class Matryoshka(BatchTopK):
    """BatchTopK with a loss over prefixes. `lengths` end with the number of features."""

    name = "matryoshka"

    def __init__(self, k: int, lengths: list[int]) -> None:
        super().__init__(k)
        self.lengths = lengths

    def gradients(self, entries: Entries, batch: Batch) -> Gradients:
        """See the module docstring. `error_ND` is that of the longest prefix."""
        groups = [entries.part(first, last) for first, last in zip([0, *self.lengths[:-1]], self.lengths, strict=True)]
        u = [active_part(group.z_E) for group in groups]
        sum_ND, errors = torch.zeros_like(batch.x_ND), []
        for group, (u_E, _) in zip(groups, u, strict=True):
            sum_ND = sum_ND + group.decode(u_E)
            errors.append(batch.error(sum_ND))

        g_ND, dV, dW, dz = torch.zeros_like(batch.x_ND), [], [], []
        for group, (u_E, active_E), error_ND in reversed(list(zip(groups, u, errors, strict=True))):
            g_ND = g_ND + batch.gradient_of(error_ND)[0] / len(groups)
            g_low_ND = g_ND.to(batch.x_low_ND.dtype)
            du_E = group.products(g_low_ND)
            if active_E is not None:
                du_E = du_E * active_E
            dV.append(group.rows(u_E, g_low_ND))
            dW.append(group.rows(du_E, batch.x_low_ND))
            dz.append(group.total(du_E))
        squares = torch.stack([error_ND.square().sum() for error_ND in errors]) / batch.n_tokens
        dV_FD, dW_FD, dz_F = (torch.cat(parts[::-1]) for parts in (dV, dW, dz))
        return Gradients(
            errors[-1], g_ND.sum(0), dV_FD, dW_FD, dz_F, entries.count(None), penalty_loss=squares.mean() - squares[-1]
        )
