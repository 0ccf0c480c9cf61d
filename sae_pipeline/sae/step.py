"""One exact training step: loss and gradients of any architecture, sparse or dense, without autograd.

Shapes: N tokens, F features, D width, P active pairs.

With u = feature activations in published units, unit decoder rows V, norms n and g = dL/dx_hat:
    dL/du = g . V[i] + lambda / N     where active
    dW_dec[i] = (sum u g + lambda / N sum u V[i]) / n_i          dW_enc[i] = n_i sum dL/du (x - b_dec)
The encoder sees x - b_dec in some architectures; the gradient that reaches b_dec that way is -W_enc^T db_enc, a sum over
features of sums over tokens, instead of one more N x F x D product.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sae_pipeline.sae import kernels
from sae_pipeline.sae.kernels import Pairs
from sae_pipeline.sae.parameters import Parameters, Published, published
from sae_pipeline.sae.revive import revive


class Architecture(Protocol):
    """What distinguishes one SAE from another: which entries are active, and what sparsity costs."""

    name: str
    initial_decoder_norm: float
    subtracts_decoder_bias: bool
    revives_dead_features: bool

    def penalty(self, step: int, n_steps: int) -> float:
        """Cost of a unit of feature activation at this step (lambda)."""
        ...

    def select(self, z_NF: Tensor) -> Pairs | None:
        """Active pairs of pre-activations in published units; None asks for the dense step with u = relu(z)."""
        ...

    def inference_threshold(self) -> float:
        """A feature is active outside training when its pre-activation in published units exceeds this."""
        ...

    def state(self) -> dict[str, float]:
        """What must survive a restart."""
        ...

    def load_state(self, state: dict[str, float]) -> None:
        """Inverse of `state`."""
        ...


@dataclass(frozen=True)
class StepResult:
    """Batch statistics as tensors on the training device (no synchronisation): loss and mse per token, mse summed over D."""

    loss: Tensor
    mse: Tensor
    l0: Tensor
    explained_variance: Tensor
    count_F: Tensor


class Step:
    """Computes gradients into `.grad` of the parameters. `dtype`: of matrix products and gathers; masters are float32."""

    def __init__(self, parameters: Parameters, architecture: Architecture, dtype: torch.dtype) -> None:
        self.parameters, self.architecture, self.dtype = parameters, architecture, dtype
        self._weights: Published | None = None
        self._z_NF = torch.empty(0, parameters.n_features, dtype=dtype, device=parameters.W_enc_FD.device)

    @torch.no_grad()
    def __call__(self, x_ND: Tensor, penalty: float, dead_F: Tensor | None = None) -> StepResult:
        """Loss and gradients of one batch of scaled activations (float32). Features marked in `dead_F` (bool) are revived."""
        self._weights = weights = published(
            self.parameters, self.dtype, self.architecture.subtracts_decoder_bias, into=self._weights
        )
        x_low_ND = x_ND.to(self.dtype)
        if len(self._z_NF) != len(x_ND):
            # Reused between steps: fresh pages for this largest array would cost a fifth of the product itself.
            self._z_NF = torch.empty(len(x_ND), self.parameters.n_features, dtype=self.dtype, device=x_ND.device)
        z_NF = torch.addmm(weights.b_enc_F, x_low_ND, weights.W_enc_FD.T, out=self._z_NF)
        pairs = self.architecture.select(z_NF)
        if pairs is None:
            return self._dense(x_ND, x_low_ND, z_NF, weights, penalty)
        return self._sparse(x_ND, x_low_ND, z_NF, pairs, weights, penalty, dead_F)

    def _sparse(
        self,
        x_ND: Tensor,
        x_low_ND: Tensor,
        z_NF: Tensor,
        pairs: Pairs,
        weights: Published,
        penalty: float,
        dead_F: Tensor | None,
    ) -> StepResult:
        n_tokens = len(x_ND)
        error_ND = kernels.decode(pairs, weights.W_dec_FD).float() + self.parameters.b_dec_D - x_ND
        g_ND = error_ND * (2 / n_tokens)
        g_low_ND = g_ND.to(self.dtype)
        du_P = kernels.pair_products(pairs, g_low_ND, weights.W_dec_FD).float() + penalty / n_tokens
        grouped = kernels.by_feature(pairs, self.parameters.n_features)
        total_u_F = kernels.totals_by_feature(grouped, pairs.value_P)
        dV_FD = kernels.sum_by_feature(grouped, pairs.value_P, g_low_ND)
        dW_FD = kernels.sum_by_feature(grouped, du_P, x_low_ND)
        du_F = kernels.totals_by_feature(grouped, du_P)
        aux = None if dead_F is None else revive(dead_F, z_NF, x_low_ND, error_ND, weights)
        if aux:
            dV_FD.index_add_(0, aux.feature_A, aux.dV_AD)
            dW_FD.index_add_(0, aux.feature_A, aux.dW_AD)
            du_F.index_add_(0, aux.feature_A, aux.du_A)
        self._store(dV_FD, dW_FD, du_F, total_u_F, g_D=g_ND.sum(0), weights=weights, pull=penalty / n_tokens)
        return _result(x_ND, error_ND, total_u_F.sum() / n_tokens, penalty, grouped.count_F)

    def _dense(self, x_ND: Tensor, x_low_ND: Tensor, z_NF: Tensor, weights: Published, penalty: float) -> StepResult:
        n_tokens = len(x_ND)
        u_NF = z_NF.relu_()
        active_NF = u_NF > 0
        error_ND = (u_NF @ weights.W_dec_FD).float() + self.parameters.b_dec_D - x_ND
        g_ND = error_ND * (2 / n_tokens)
        g_low_ND = g_ND.to(self.dtype)
        du_NF = (g_low_ND @ weights.W_dec_FD.T).add_(penalty / n_tokens).mul_(active_NF)
        total_u_F = u_NF.sum(0, dtype=torch.float32)
        self._store(
            u_NF.T @ g_low_ND, du_NF.T @ x_low_ND, du_NF.sum(0, dtype=torch.float32), total_u_F,
            g_D=g_ND.sum(0), weights=weights, pull=penalty / n_tokens,
        )  # fmt: skip
        return _result(x_ND, error_ND, total_u_F.sum() / n_tokens, penalty, active_NF.sum(0))

    def _store(
        self, dV_FD: Tensor, dW_FD: Tensor, du_F: Tensor, total_u_F: Tensor, g_D: Tensor, weights: Published, pull: float
    ) -> None:
        """Chain from published units back to the master parameters (module docstring)."""
        p, norm_F = self.parameters, weights.norm_F
        db_enc_F = du_F * norm_F
        dW_dec_FD = _grad_of(p.W_dec_FD)
        dW_dec_FD.copy_(dV_FD).div_(norm_F[:, None])
        if pull:
            dW_dec_FD.addcmul_(p.W_dec_FD, (pull * total_u_F / norm_F.square())[:, None])
        dW_enc_FD = _grad_of(p.W_enc_FD)
        dW_enc_FD.copy_(dW_FD).mul_(norm_F[:, None])
        if self.architecture.subtracts_decoder_bias:
            dW_enc_FD.addr_(db_enc_F, p.b_dec_D, alpha=-1)
            g_D = g_D - p.W_enc_FD.T @ db_enc_F
        p.b_enc_F.grad = db_enc_F
        p.b_dec_D.grad = g_D


def _grad_of(parameter: torch.nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad


def _result(x_ND: Tensor, error_ND: Tensor, activation_per_token: Tensor, penalty: float, count_F: Tensor) -> StepResult:
    mse = error_ND.square().sum() / len(x_ND)
    variance = (x_ND - x_ND.mean(0)).square().sum() / len(x_ND)
    return StepResult(
        loss=mse + penalty * activation_per_token,
        mse=mse,
        l0=count_F.sum() / len(x_ND),
        explained_variance=1 - mse / variance,
        count_F=count_F,
    )
