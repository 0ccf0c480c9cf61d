"""Trainable parameters of an SAE, their initialisation, and the copies in published units that a training step works with.

Shapes: F features, D width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter

from sae_pipeline.sae import gpu

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Parameters:
    """Float32 masters: f_i = max(0, W_enc[i] . x + b_enc[i]) before any sparsity rule, x_hat = b_dec + sum f_i W_dec[i]."""

    W_enc_FD: Parameter
    b_enc_F: Parameter
    W_dec_FD: Parameter
    b_dec_D: Parameter
    own: dict[str, Parameter] = field(default_factory=dict)
    """What only some architectures have, one number per feature each (thresholds, gates)."""

    def named(self) -> dict[str, Parameter]:
        """{name: parameter} in a fixed order (optimizer state and checkpoints follow it)."""
        shared = {name: value for name, value in vars(self).items() if name != "own"}
        return shared | self.own

    @property
    def n_features(self) -> int:
        """F."""
        return self.W_dec_FD.shape[0]

    @property
    def d_model(self) -> int:
        """D."""
        return self.W_dec_FD.shape[1]


@dataclass(frozen=True)
class Published:
    """Copies for one step in published units: unit decoder rows, their norm folded into the encoder, b_dec into its bias."""

    W_enc_FD: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    norm_F: Tensor


def initial_parameters(
    n_features: int,
    d_model: int,
    decoder_norm: float,
    generator: torch.Generator,
    device: str,
    own: dict[str, Tensor] | None = None,
) -> Parameters:
    """Random decoder directions of one norm, encoder = decoder transposed, zero biases (paper's April 2024 update).

    Both weights are stored one row per feature, so 'transposed' shows as equality.
    """
    W_FD = torch.randn(n_features, d_model, generator=generator)
    W_FD *= decoder_norm / W_FD.norm(dim=1, keepdim=True)
    W_FD = W_FD.to(device)
    return Parameters(
        W_enc_FD=Parameter(W_FD.clone()),
        b_enc_F=Parameter(torch.zeros(n_features, device=device)),
        W_dec_FD=Parameter(W_FD),
        b_dec_D=Parameter(torch.zeros(d_model, device=device)),
        own={name: Parameter(value.to(device)) for name, value in (own or {}).items()},
    )


def published(
    parameters: Parameters,
    dtype: torch.dtype,
    subtracts_decoder_bias: bool,
    into: Published | None = None,
    shift_F: Tensor | None = None,
) -> Published:
    """Copies in `dtype` with relu(x W_enc^T + b_enc) = f_i ‖W_dec,i‖; `subtracts_decoder_bias`: the encoder sees x - b_dec.

    `shift_F` (in training units) is taken off the biases, so that "above the shift" reads "positive".
    `into`: earlier copies to overwrite. Arrays of this size are expensive to allocate: the kernel clears every page.
    """
    enc_FD, dec_FD = (
        (into.W_enc_FD, into.W_dec_FD) if into else (torch.empty_like(parameters.W_enc_FD, dtype=dtype) for _ in range(2))
    )
    b_enc_F = parameters.b_enc_F
    if gpu.on_gpu(enc_FD):
        bias_F = b_enc_F if shift_F is None else b_enc_F - shift_F
        low_F, norm_F = gpu.publish(
            enc_FD, dec_FD, parameters.W_enc_FD, parameters.W_dec_FD, bias_F, parameters.b_dec_D, subtracts_decoder_bias
        )
        return Published(enc_FD, low_F, dec_FD, norm_F)
    norm_F = parameters.W_dec_FD.norm(dim=1)
    if subtracts_decoder_bias:
        b_enc_F = b_enc_F - parameters.W_enc_FD @ parameters.b_dec_D
    if shift_F is not None:
        b_enc_F = b_enc_F - shift_F
    scratch_RD = torch.empty(ROWS_AT_ONCE, parameters.d_model, device=norm_F.device)
    for start in range(0, parameters.n_features, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        norm_R1 = norm_F[rows, None]
        part_RD = scratch_RD[: len(norm_R1)]
        enc_FD[rows].copy_(torch.mul(parameters.W_enc_FD[rows], norm_R1, out=part_RD))
        dec_FD[rows].copy_(torch.div(parameters.W_dec_FD[rows], norm_R1, out=part_RD))
    return Published(enc_FD, (b_enc_F * norm_F).to(dtype), dec_FD, norm_F)
