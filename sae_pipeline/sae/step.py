"""One exact training step: loss and gradients of any architecture, sparse or dense, without autograd.

Shapes: N tokens, F features, D width, P active pairs.

With u = feature activations in published units, unit decoder rows V, norms n and g = dL/dx_hat:
    dL/du = g . V[i] + lambda / N     where active
    dW_dec[i] = (sum u g + lambda / N sum u V[i]) / n_i          dW_enc[i] = n_i sum dL/du (x - b_dec)
The encoder sees x - b_dec in some architectures; the gradient that reaches b_dec that way is -W_enc^T db_enc, a sum over
features of sums over tokens, instead of one more N x F x D product. A step is sparse as long as few entries are active and dense
otherwise; which of the two computes a sum changes its rounding, nothing else.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.sae import gpu
from sae_pipeline.sae.architecture import Architecture, Batch, Gradients
from sae_pipeline.sae.entries import DenseEntries, Entries, SparseEntries
from sae_pipeline.sae.lagged import Lagged
from sae_pipeline.sae.parameters import Parameters, Published, published
from sae_pipeline.sae.preactivations import PreActivations
from sae_pipeline.sae.revive import revive

# Share of active entries above which the dense step is faster. One core, D 576, F 8,192, us/token: float32 with 320, 640, 1,024
# active features 202, 298, 423, dense 500 to 570; bfloat16 with 512, 640, 768, 1,024 245, 273, 301, 339, dense 225 to 240. On a
# GPU gathers cost more compared with products: by bytes and operations F / k of about 147 breaks even.
DENSE_ABOVE_SHARE = {torch.float32: 1 / 6, torch.bfloat16: 1 / 18}
GPU_DENSE_ABOVE_SHARE = 1 / 147
# A sparse step on a GPU has so many times the places that the limit above asks for: the number of entries may grow by as much
# within `LAG_STEPS` before places run short.
GPU_ROOM = 2


@dataclass(frozen=True)
class StepResult:
    """Batch statistics as tensors on the training device (no synchronisation): loss and mse per token, mse summed over D."""

    loss: Tensor
    mse: Tensor
    l0: Tensor
    explained_variance: Tensor
    count_F: Tensor
    squares: Tensor | None = None
    """On a GPU: sum of squares of all gradients."""
    is_short: Tensor | None = None
    """On a GPU, 0-dim bool: entries found no place, so that the gradients are not those of the batch and must not be used."""


class Step:
    """Computes gradients into `.grad` of the parameters. `dtype`: of matrix products and gathers; masters are float32.

    `dense_above_share`: share of active entries from which on the dense form is used (0: always, 1: never).
    """

    def __init__(
        self, parameters: Parameters, architecture: Architecture, dtype: torch.dtype, dense_above_share: float | None = None
    ) -> None:
        self.parameters, self.architecture, self.dtype = parameters, architecture, dtype
        device = parameters.W_enc_FD.device
        if dense_above_share is None:
            dense_above_share = DENSE_ABOVE_SHARE[dtype] if device.type == "cpu" else GPU_DENSE_ABOVE_SHARE
        self.dense_above_share = dense_above_share
        self.was_dense = False
        """Which form the last step took."""
        self.n_entries = Lagged()
        """On a GPU: the entries of earlier steps, by which the form is chosen."""
        self._weights: Published | None = None
        self._z = PreActivations(parameters.n_features, dtype, device)

    @torch.no_grad()
    def __call__(self, x_ND: Tensor, penalty: float, dead_F: Tensor | None = None, n_dead: int | None = None) -> StepResult:
        """Loss and gradients of one batch of scaled activations (float32). Features marked in `dead_F` (bool) are revived;
        `n_dead`: see `revive`."""
        shift_F = self.architecture.shift(self.parameters)
        self._weights = weights = published(
            self.parameters, self.dtype, self.architecture.subtracts_decoder_bias, into=self._weights, shift_F=shift_F
        )
        x_low_ND = x_ND.to(self.dtype)
        z = self._z.compute(x_low_ND, weights)
        entries, is_short = self._entries_on_gpu(z, weights) if z.on_gpu else (self._entries(z, weights), None)
        made = self.architecture.gradients(entries, Batch(x_ND, x_low_ND, self.parameters, weights, penalty))
        if dead_F is not None and (aux := revive(dead_F, z, x_low_ND, made.error_ND, weights, n_dead)):
            made.dV_FD.index_add_(0, aux.feature_A, aux.dV_AD.to(made.dV_FD.dtype))
            made.dW_FD.index_add_(0, aux.feature_A, aux.dW_AD.to(made.dW_FD.dtype))
            made.dz_F.index_add_(0, aux.feature_A, aux.du_A)
        squares = self._store(made, weights)
        return _result(x_ND, made, squares, is_short)

    def _entries(self, z: PreActivations, weights: Published) -> Entries:
        limit = self.dense_above_share * z.n_tokens * z.n_features
        pairs = self.architecture.select(z, int(limit))
        self.was_dense = pairs is None or pairs.n_pairs > limit
        if pairs is None:
            return DenseEntries(z.whole(), weights.W_dec_FD)
        return (DenseEntries.of_pairs if self.was_dense else SparseEntries)(pairs, weights.W_dec_FD)

    def _entries_on_gpu(self, z: PreActivations, weights: Published) -> tuple[Entries, Tensor | None]:
        """The same without waiting for the number of entries: what is known of it is some steps old."""
        limit, k = int(self.dense_above_share * z.n_tokens * z.n_features), self.architecture.entries_per_token()
        known = k * z.n_tokens if k else self.n_entries.value
        self.was_dense = known is None or known > limit
        pairs = self.architecture.select(z, 0 if self.was_dense else min(GPU_ROOM * limit, z.n_tokens * z.n_features))
        if pairs is None:
            z_NF = z.whole()
            self.n_entries.add((z_NF > 0).sum())
            return DenseEntries(z_NF, weights.W_dec_FD), None
        if not k:
            self.n_entries.add(pairs.offsets_N1[-1])
        return (DenseEntries.of_pairs if self.was_dense else SparseEntries)(pairs, weights.W_dec_FD), pairs.is_short

    def _store(self, made: Gradients, weights: Published) -> Tensor | None:
        """Chain from published units back to the master parameters (module docstring). On a GPU: the sum of their squares."""
        p, norm_F = self.parameters, weights.norm_F
        db_enc_F = (made.dz_F if made.db_F is None else made.db_F) * norm_F
        g_D, dz_F = made.g_D, made.dz_F * norm_F
        if self.architecture.subtracts_decoder_bias:
            g_D = g_D - p.W_enc_FD.T @ dz_F
        p.b_enc_F.grad = db_enc_F
        p.b_dec_D.grad = g_D
        for name, gradient in made.own.items():
            p.own[name].grad = gradient
        if not gpu.on_gpu(norm_F):
            self._chain_rows(made, norm_F, dz_F)
            return None
        subtracts = self.architecture.subtracts_decoder_bias
        squares_F = gpu.chain(_grad_of(p.W_enc_FD), _grad_of(p.W_dec_FD), made, p.W_dec_FD, p.b_dec_D, norm_F, subtracts)
        return squares_F.sum() + sum(one.square().sum() for one in (db_enc_F, g_D, *made.own.values()))

    def _chain_rows(self, made: Gradients, norm_F: Tensor, dz_F: Tensor) -> None:
        p = self.parameters
        dW_dec_FD = _grad_of(p.W_dec_FD)
        dW_dec_FD.copy_(made.dV_FD).div_(norm_F[:, None])
        if made.pull_F is not None:
            dW_dec_FD.addcmul_(p.W_dec_FD, (made.pull_F / norm_F.square())[:, None])
        dW_enc_FD = _grad_of(p.W_enc_FD)
        dW_enc_FD.copy_(made.dW_FD).mul_(norm_F[:, None])
        if self.architecture.subtracts_decoder_bias:
            dW_enc_FD.addr_(dz_F, p.b_dec_D, alpha=-1)


def _grad_of(parameter: torch.nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad


def _result(x_ND: Tensor, made: Gradients, squares: Tensor | None, is_short: Tensor | None) -> StepResult:
    mse = made.error_ND.square().sum() / len(x_ND)
    variance = (x_ND - x_ND.mean(0)).square().sum() / len(x_ND)
    return StepResult(
        loss=mse + made.penalty_loss,
        mse=mse,
        l0=made.count_F.sum() / len(x_ND),
        explained_variance=1 - mse / variance,
        count_F=made.count_F,
        squares=squares,
        is_short=is_short,
    )
