"""Dictionaries that no SAE training made, on the same activations: principal components and random directions.

Both are given more than an SAE has: PCA keeps its first k components for every token (no choice per token, but optimal ones);
random directions are decoded by least squares on the k chosen ones. Each is what reconstruction is worth without features.

Shapes: N tokens, F directions, D width, K chosen directions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader

BATCH_TOKENS = 16_384
RIDGE = 1e-4


@dataclass(frozen=True)
class PrincipalComponents:
    """The first components of the training tokens, unit rows in descending order of variance."""

    mean_D: Tensor
    component_DD: Tensor
    k: int

    @classmethod
    def fit(cls, reader: "ActivationReader", n_tokens: int, k: int) -> "PrincipalComponents":
        """From at most about `n_tokens` unmasked training tokens, evenly spread."""
        index_N = reader.token_index("train")
        index_N = index_N[:: -(-len(index_N) // n_tokens)]
        sum_D = torch.zeros(reader.d_model, dtype=torch.float64)
        product_DD = torch.zeros(reader.d_model, reader.d_model, dtype=torch.float64)
        for part_N in index_N.split(BATCH_TOKENS):
            x_ND = reader.scaled(reader.gather(part_N))
            sum_D += x_ND.sum(0)
            product_DD += (x_ND.T @ x_ND).double()
        mean_D = sum_D / len(index_N)
        _, vector_DD = torch.linalg.eigh(product_DD / len(index_N) - mean_D[:, None] * mean_D)
        return cls(mean_D.float(), vector_DD.flip(1).T.float().contiguous(), k)

    def __call__(self, x_ND: Tensor, r_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Dictionary`."""
        V_KD = self.component_DD[: self.k]
        x_hat_ND = (x_ND - self.mean_D) @ V_KD.T @ V_KD + self.mean_D
        return x_hat_ND, torch.full((len(x_ND),), self.k), torch.arange(self.k)


@dataclass(frozen=True)
class RandomDirections:
    """F random unit directions; a token uses the k with the largest projections, decoded by least squares."""

    direction_FD: Tensor
    k: int

    @classmethod
    def draw(cls, n_directions: int, d_model: int, k: int, seed: int) -> "RandomDirections":
        """Seeded."""
        generator = torch.Generator().manual_seed(seed)
        return cls(normalize(torch.randn(n_directions, d_model, generator=generator), dim=1), k)

    def __call__(self, x_ND: Tensor, r_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Dictionary`."""
        chosen_NK = (x_ND @ self.direction_FD.T).topk(self.k, dim=1).indices
        x_hat_ND = torch.empty_like(x_ND)
        for rows in torch.arange(len(x_ND)).split(512):
            V_nKD = self.direction_FD[chosen_NK[rows]]
            gram_nKK = V_nKD @ V_nKD.mT + RIDGE * torch.eye(self.k)
            value_nK1 = torch.linalg.solve(gram_nKK, V_nKD @ x_ND[rows, :, None])
            x_hat_ND[rows] = (value_nK1.mT @ V_nKD).squeeze(1)
        return x_hat_ND, torch.full((len(x_ND),), self.k), chosen_NK.unique()
