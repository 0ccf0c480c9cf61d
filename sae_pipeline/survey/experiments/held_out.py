"""How several dictionaries reconstruct held-out tokens, summed by document, so that differences have intervals by document.

Shapes: N tokens, K documents, A arms, D width, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from sae_pipeline import progress
from sae_pipeline.resampling import interval
from sae_pipeline.sae.autoencoder import SparseAutoencoder

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader

BATCH_TOKENS = 4096


class Dictionary(Protocol):
    """Anything that reconstructs."""

    def __call__(self, x_ND: Tensor, r_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x_hat N x D scaled, active features per token N, features active at least once), from scaled and raw activations."""
        ...


@dataclass(frozen=True)
class SaeDictionary:
    """An SAE in its published form."""

    sae: SparseAutoencoder

    def __call__(self, x_ND: Tensor, r_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Dictionary`."""
        codes = self.sae.encode_sparse(r_ND)
        return self.sae.scaled(self.sae.decode_sparse(codes)).cpu(), codes.offsets.diff().cpu(), codes.feature.unique().cpu()


@dataclass(frozen=True)
class ByDocument:
    """Sums by document. Arms in the order of `arms`."""

    arms: tuple[str, ...]
    n_K: np.ndarray
    variation_K: np.ndarray  # sum of ‖x - mean of all these tokens‖²
    error_AK: np.ndarray  # sum of ‖x - x_hat‖²
    active_AK: np.ndarray  # sum of active features
    ratio_AK: np.ndarray  # sum of ‖x_hat‖ / ‖x‖
    alive_A: tuple[int, ...]  # features active at least once

    def at(self, arm: str) -> int:
        """The arm's row."""
        return self.arms.index(arm)

    def explained_variance(self, arm: str, weight_RK: np.ndarray | None = None) -> np.ndarray:
        """1 - sum of errors / variation, R values (one, of all documents, without draws)."""
        return 1 - self._over(self.error_AK[self.at(arm)], self.variation_K, weight_RK)

    def loss(self, arm: str, weight_RK: np.ndarray | None = None) -> np.ndarray:
        """Mean over tokens of ‖x - x_hat‖²."""
        return self._over(self.error_AK[self.at(arm)], self.n_K, weight_RK)

    def l0(self, arm: str) -> float:
        """Active features per token."""
        return float(self._over(self.active_AK[self.at(arm)], self.n_K, None)[0])

    def norm_ratio(self, arm: str, weight_RK: np.ndarray | None = None) -> np.ndarray:
        """Mean over tokens of ‖x_hat‖ / ‖x‖."""
        return self._over(self.ratio_AK[self.at(arm)], self.n_K, weight_RK)

    def _over(self, top_K: np.ndarray, bottom_K: np.ndarray, weight_RK: np.ndarray | None) -> np.ndarray:
        weight_RK = np.ones((1, len(self.n_K))) if weight_RK is None else weight_RK
        return (weight_RK @ top_K) / (weight_RK @ bottom_K)


def measure(reader: "ActivationReader", dictionaries: Mapping[str, Dictionary], n_tokens: int) -> ByDocument:
    """One pass over at most about `n_tokens` unmasked held-out tokens, evenly spread over all of them."""
    index_N = reader.token_index("held_out")
    index_N = index_N[:: -(-len(index_N) // n_tokens)]
    document_N, group_N = reader.document_of_token[index_N].unique(return_inverse=True)
    n_documents, n_arms = len(document_N), len(dictionaries)
    count_K, square_K = torch.zeros(2, n_documents, dtype=torch.float64)
    sum_KD = torch.zeros(n_documents, reader.d_model, dtype=torch.float64)
    error_AK, active_AK, ratio_AK = torch.zeros(3, n_arms, n_documents, dtype=torch.float64)
    alive: list[set[int]] = [set() for _ in dictionaries]
    with progress.bar("held-out tokens", len(index_N) * n_arms, "tokens") as bar:
        for part_N, group_n in zip(index_N.split(BATCH_TOKENS), group_N.split(BATCH_TOKENS), strict=True):
            r_ND = reader.gather(part_N)
            x_ND = reader.scaled(r_ND)
            norm_N = x_ND.norm(dim=1).clamp(min=1e-6)
            count_K.index_add_(0, group_n, torch.ones(len(part_N), dtype=torch.float64))
            square_K.index_add_(0, group_n, x_ND.double().square().sum(1))
            sum_KD.index_add_(0, group_n, x_ND.double())
            for at, dictionary in enumerate(dictionaries.values()):
                x_hat_ND, active_N, feature_U = dictionary(x_ND, r_ND)
                error_AK[at].index_add_(0, group_n, (x_ND - x_hat_ND).double().square().sum(1))
                active_AK[at].index_add_(0, group_n, active_N.double())
                ratio_AK[at].index_add_(0, group_n, (x_hat_ND.norm(dim=1) / norm_N).double())
                alive[at].update(feature_U.tolist())
                bar.update(len(part_N))
    mean_D = sum_KD.sum(0) / count_K.sum()
    variation_K = square_K - 2 * (sum_KD @ mean_D) + count_K * mean_D.square().sum()
    return ByDocument(
        tuple(dictionaries), count_K.numpy(), variation_K.numpy(), error_AK.numpy(), active_AK.numpy(), ratio_AK.numpy(),
        tuple(len(each) for each in alive),
    )  # fmt: skip


def difference(value_R: np.ndarray, control_R: np.ndarray) -> tuple[float, float]:
    """Interval of value minus control over the same draws."""
    return interval(value_R - control_R)
