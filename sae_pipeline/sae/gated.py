"""Gated SAE: one half of the encoder decides which features are active, the other how strongly (Rajamanoharan et al. 2024).

Loss per token, with both halves sharing their direction, W_mag = exp(r) W_gate, and frozen copies marked *:
    pi_gate = W_gate (x - b_dec) + b_gate      f = relu(exp(r) W_gate (x - b_dec) + b_mag) where pi_gate > 0, else 0
    ‖x - x_hat(f)‖² + lambda sum relu(pi_gate)_i ‖W_dec,i*‖ + ‖x - W_dec* relu(pi_gate) - b_dec*‖²
The penalty carries the decoder norm (with unit rows it is the paper's) and does not train it, as unit rows would not be: norms
that shrink for the penalty's sake, without a say of the frozen term, let gates open that nothing closes. At inference f is a
JumpReLU: active above relu(b_mag - exp(r) b_gate), the value that f has where the gate opens.

Shapes: N tokens, F features, D width, `_E` entries: those whose gate is open.
"""

import math

import torch
from torch import Tensor
from torch.nn import Parameter

from sae_pipeline.sae.architecture import Architecture, Batch, Gradients, active_part, all_positive
from sae_pipeline.sae.entries import Entries
from sae_pipeline.sae.kernels import Pairs
from sae_pipeline.sae.parameters import Parameters
from sae_pipeline.sae.preactivations import PreActivations
from sae_pipeline.sae.relu_l1 import WARMUP_SHARE


class Gated(Architecture):
    """Sparsity comes from `l1` (lambda), scaled for centred data as in `ReluL1`; it rises over the first 5 % of the steps."""

    name = "gated"
    revives_dead_features = False

    def __init__(self, l1: float, center_share: float = 0.0) -> None:
        self.l1 = l1 / math.sqrt(1 - center_share)

    def own_parameters(self, n_features: int) -> dict[str, Tensor]:
        """`r_mag_F` and `b_mag_F`; the shared bias is the gate's."""
        return {"r_mag_F": torch.zeros(n_features), "b_mag_F": torch.zeros(n_features)}

    def penalty(self, step: int, n_steps: int) -> float:
        """lambda at this step."""
        return self.l1 * min(1.0, step / max(1.0, WARMUP_SHARE * n_steps))

    def select(self, z: PreActivations, at_most: int) -> Pairs | None:
        """Open gates."""
        return all_positive(z, at_most)

    def gradients(self, entries: Entries, batch: Batch) -> Gradients:
        """See the module docstring. Everything per entry is in published units (times the decoder norm)."""
        norm_F, p = batch.weights.norm_F, batch.parameters
        gain_F = p.own["r_mag_F"].exp()
        gate_E, open_E = active_part(entries.z_E)
        without_bias_E = entries.z_E.float() - entries.at(norm_F * p.b_enc_F)
        u_E = (entries.at(gain_F) * without_bias_E + entries.at(norm_F * p.own["b_mag_F"])).relu()
        if open_E is not None:
            u_E = u_E * open_E
        active_E = u_E > 0

        error_ND = batch.error(entries.decode(u_E))
        gate_error_ND = batch.error(entries.decode(gate_E))
        g_ND, g_low_ND = batch.gradient_of(error_ND)
        _, gate_g_low_ND = batch.gradient_of(gate_error_ND)
        pull = batch.penalty / batch.n_tokens
        du_E = entries.products(g_low_ND) * active_E
        dgate_E = entries.products(gate_g_low_ND) + pull
        if open_E is not None:
            dgate_E = dgate_E * open_E
        dz_E = du_E * entries.at(gain_F) + dgate_E
        total_gate_F = entries.total(gate_E)
        return Gradients(
            error_ND, g_ND.sum(0), entries.rows(u_E, g_low_ND), entries.rows(dz_E, batch.x_low_ND), entries.total(dz_E),
            entries.count(active_E),
            penalty_loss=gate_error_ND.square().sum() / batch.n_tokens + pull * total_gate_F.sum(),
            db_F=entries.total(dgate_E),
            own={"r_mag_F": entries.total(du_E * without_bias_E) * gain_F, "b_mag_F": entries.total(du_E) * norm_F},
        )  # fmt: skip

    def inference(self, parameters: Parameters) -> tuple[Parameters, Tensor]:
        """The magnitude half as a JumpReLU."""
        p = parameters
        gain_F, b_mag_F = p.own["r_mag_F"].exp(), p.own["b_mag_F"]
        magnitude = Parameters(Parameter(p.W_enc_FD * gain_F[:, None]), b_mag_F, p.W_dec_FD, p.b_dec_D)
        threshold_F = torch.relu(b_mag_F - gain_F * p.b_enc_F) * p.W_dec_FD.norm(dim=1)
        return magnitude, threshold_F
