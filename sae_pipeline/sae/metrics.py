"""How well an SAE reconstructs: one definition each, as sums over tokens that can be added up in any number of pieces.

Shapes: N tokens, D width, F features, P active (token, feature) pairs. Everything is in scaled space x unless named raw;
explained variance is the same in both.
"""

import torch
from torch import Tensor


class Reconstruction:
    """Float64 sums over tokens of x, x², (x - x_hat)²; explained variance follows from them."""

    def __init__(self, d_model: int) -> None:
        self.n_tokens = 0
        self.sum_D = torch.zeros(d_model, dtype=torch.float64)
        self.square_D = torch.zeros(d_model, dtype=torch.float64)
        self.error_D = torch.zeros(d_model, dtype=torch.float64)

    def add(self, x_ND: Tensor, x_hat_ND: Tensor) -> None:
        """Add tokens."""
        x_ND, error_ND = x_ND.double().cpu(), (x_ND - x_hat_ND).double().cpu()
        self.n_tokens += len(x_ND)
        self.sum_D += x_ND.sum(0)
        self.square_D += x_ND.square().sum(0)
        self.error_D += error_ND.square().sum(0)

    def merge(self, other: "Reconstruction") -> None:
        """Add the sums of other tokens."""
        self.n_tokens += other.n_tokens
        self.sum_D += other.sum_D
        self.square_D += other.square_D
        self.error_D += other.error_D

    @property
    def _variation_D(self) -> Tensor:
        """Sum of squared deviations from the mean of these very tokens."""
        return self.square_D - self.sum_D.square() / max(1, self.n_tokens)

    def explained_variance(self) -> float:
        """1 - Σ‖x - x_hat‖² / Σ‖x - mean‖², sums over all tokens, the mean being that of the evaluated tokens."""
        return 1 - float(self.error_D.sum() / self._variation_D.sum())

    def explained_variance_standardized(self) -> float:
        """The same with every dimension divided by its standard deviation: the mean over dimensions that vary."""
        varies_D = self._variation_D > 1e-12 * self.square_D
        return 1 - float((self.error_D[varies_D] / self._variation_D[varies_D]).mean())

    def mse(self) -> float:
        """Mean squared error per token and dimension."""
        return float(self.error_D.sum()) / (self.n_tokens * len(self.error_D))


class Activity:
    """Counts of active features: L0, and which features were ever active ('alive')."""

    def __init__(self, n_features: int) -> None:
        self.n_tokens = 0
        self.count_F = torch.zeros(n_features, dtype=torch.int64)

    def add(self, n_tokens: int, feature_P: Tensor) -> None:
        """Add tokens and the features active on them (one entry per pair)."""
        self.n_tokens += n_tokens
        self.count_F += torch.bincount(feature_P.cpu().long(), minlength=len(self.count_F))

    def merge(self, other: "Activity") -> None:
        """Add the counts of other tokens."""
        self.n_tokens += other.n_tokens
        self.count_F += other.count_F

    def l0(self) -> float:
        """Mean number of active features per token."""
        return int(self.count_F.sum()) / self.n_tokens

    def alive_fraction(self) -> float:
        """Share of features active at least once. State `n_tokens` beside it (10⁷ in the paper)."""
        return float((self.count_F > 0).double().mean())


def ce_recovered(ce_clean: float, ce_spliced: float, ce_ablated: float) -> float | None:
    """(ablated - spliced) / (ablated - clean); None where ablation does no harm, as the ratio then says nothing."""
    return (ce_ablated - ce_spliced) / (ce_ablated - ce_clean) if ce_ablated > ce_clean else None


def next_token_cross_entropy(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Nats per token, N, float32."""
    logits_NV = logits_NV.float()
    return logits_NV.logsumexp(1) - logits_NV.gather(1, target_N[:, None]).squeeze(1)


def kl_divergence(clean_NV: Tensor, other_NV: Tensor) -> Tensor:
    """KL(clean ‖ other) of the next-token distributions, nats per token, N, float32."""
    log_clean_NV = clean_NV.float().log_softmax(1)
    return (log_clean_NV.exp() * (log_clean_NV - other_NV.float().log_softmax(1))).sum(1)
