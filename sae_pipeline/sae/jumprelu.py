"""JumpReLU: a feature is active above a threshold of its own, which is trained through a straight-through estimate.

Loss per token, f_i = z_i where z_i > theta_i = exp(t_i) and 0 elsewhere, z = W_enc (x - b_dec) + b_enc, n_i = ‖W_dec,i‖:
    tanh (Anthropic, January 2025 update): ‖x - x_hat‖² + lambda sum tanh(4 f_i n_i) + 3e-6 sum relu(theta_i - z_i) n_i
    step (Gemma Scope, Rajamanoharan et al. 2024): ‖x - x_hat‖² + lambda sum H(z_i - theta_i)
In `tanh` every term trains every parameter; in `step` the penalty trains thresholds only. Straight-through, with K the unit box:
    df_i/dtheta_i = -theta_i / eps K((z_i - theta_i) / eps)         dH/dtheta_i = -1 / eps K((z_i - theta_i) / eps)

The relu(theta - z) term touches nearly every entry, but all alike: its sums over inactive tokens are sums over all tokens less
those over active ones, so it needs no entry that the rest does not need.

Shapes: N tokens, F features, D width, `_E` entries: those with z > theta - eps / 2.
"""

from typing import Literal

import torch
from torch import Tensor

from sae_pipeline.sae.architecture import Architecture, Batch, Gradients, all_positive
from sae_pipeline.sae.entries import Entries
from sae_pipeline.sae.kernels import Pairs
from sae_pipeline.sae.names import PUBLISHED_WARMUP
from sae_pipeline.sae.parameters import Parameters
from sae_pipeline.sae.preactivations import PreActivations

TANH_SLOPE = 4.0
PRE_ACTIVATION_LOSS = 3e-6
INITIAL_THRESHOLD = 0.1
# Anthropic's; Gemma Scope's 0.001 is for E‖x‖² = 1 and is multiplied by sqrt(D) here, where E‖x‖² = D.
TANH_BANDWIDTH, STEP_BANDWIDTH_UNIT = 2.0, 0.001
# Gemma Scope's: without momentum. A threshold's gradient is rare and large, its direction soon out of date.
STEP_BETAS = (0.0, 0.999)
# At the start a feature is active on this many tokens in F (Anthropic), at most on half of them.
INITIAL_ACTIVE = 10_000


class JumpReLU(Architecture):
    """Thresholds per feature; sparsity comes from `coefficient` (lambda). It rises linearly from 0 over
    `warmup_share` of the steps; None: as each form was published, over all of them in `tanh`, over the first in `step`."""

    name = "jumprelu"
    # Rows uniform in (-1 / sqrt(D), 1 / sqrt(D)) have this norm; ours are Gaussian of exactly this norm.
    initial_decoder_norm = 3**-0.5
    revives_dead_features = False

    def __init__(
        self, coefficient: float, sparsity_loss: Literal["tanh", "step"], d_model: int, warmup_share: float | None = None
    ) -> None:
        self.coefficient, self.is_tanh = coefficient, sparsity_loss == "tanh"
        self.warmup_share = warmup_share or PUBLISHED_WARMUP[sparsity_loss]
        self.bandwidth = TANH_BANDWIDTH if self.is_tanh else STEP_BANDWIDTH_UNIT * d_model**0.5
        self.betas = self.betas if self.is_tanh else STEP_BETAS
        # Where E‖x‖² = 1, for which Gemma Scope's recipe is made, one learning rate moves biases so much further against rows.
        self.feature_rate = d_model**0.5

    def own_parameters(self, n_features: int) -> dict[str, Tensor]:
        """`log_threshold_F`, t."""
        return {"log_threshold_F": torch.full((n_features,), INITIAL_THRESHOLD).log()}

    def prepare(self, parameters: Parameters, x_ND: Tensor) -> None:
        """W_enc = D / F W_decᵀ, and biases with which every feature is active on the same share of the first batch."""
        share = min(0.5, INITIAL_ACTIVE / parameters.n_features)
        parameters.W_enc_FD.mul_(min(1.0, parameters.d_model / parameters.n_features))
        n_active = max(1, round(share * len(x_ND)))
        for first in range(0, parameters.n_features, 1024):
            rows = slice(first, first + 1024)
            z_FN = parameters.W_enc_FD[rows] @ x_ND.T
            parameters.b_enc_F[rows] = INITIAL_THRESHOLD - z_FN.topk(n_active, dim=1).values[:, -1]

    def penalty(self, step: int, n_steps: int) -> float:
        """lambda at this step."""
        return self.coefficient * min(1.0, (step + 1) / max(1.0, self.warmup_share * n_steps))

    def shift(self, parameters: Parameters) -> Tensor:
        """Lower edge of the window in which thresholds get a gradient."""
        return parameters.own["log_threshold_F"].exp() - self.bandwidth / 2

    def select(self, z: PreActivations, at_most: int) -> Pairs | None:
        """Everything above that edge."""
        return all_positive(z, at_most)

    def gradients(self, entries: Entries, batch: Batch) -> Gradients:
        """See the module docstring. Everything per entry is in published units (times n)."""
        n_tokens, norm_F, p = batch.n_tokens, batch.weights.norm_F, batch.parameters
        theta_F = p.own["log_threshold_F"].exp()
        # The pre-activations came without the edge: near the threshold, where it matters, they are the more exact for it.
        above_edge_E = entries.z_E.float()
        half_E = entries.at(norm_F * (self.bandwidth / 2))
        active_E = above_edge_E > half_E
        in_window_E = (above_edge_E > 0) & (above_edge_E < 2 * half_E)
        u_E = (above_edge_E - half_E + entries.at(norm_F * theta_F)) * active_E

        error_ND = batch.error(entries.decode(u_E))
        g_ND, g_low_ND = batch.gradient_of(error_ND)
        du_E = entries.products(g_low_ND).float()
        pull_F = None
        if self.is_tanh:
            tanh_E = torch.tanh(TANH_SLOPE * u_E)
            dpenalty_E = (batch.penalty * TANH_SLOPE / n_tokens) * (1 - tanh_E.square())
            penalty_loss = batch.penalty / n_tokens * tanh_E.sum()
            pull_F = entries.total(dpenalty_E * u_E)
            du_E = du_E + dpenalty_E
        dtheta_F = entries.total(du_E * in_window_E) * (-theta_F * norm_F / self.bandwidth)
        count_F = entries.count(active_E)
        if not self.is_tanh:
            penalty_loss = batch.penalty / n_tokens * count_F.sum()
            dtheta_F -= batch.penalty / (n_tokens * self.bandwidth) * entries.count(in_window_E)
        dz_E = du_E * active_E
        made = Gradients(
            error_ND, g_ND.sum(0), entries.rows(u_E, g_low_ND), entries.rows(dz_E, batch.x_low_ND), entries.total(dz_E), count_F,
            penalty_loss=penalty_loss, pull_F=pull_F,
        )  # fmt: skip
        if self.is_tanh:
            dtheta_F += self._add_pre_activation_loss(made, entries, batch, u_E, active_E, theta_F)
        made.own["log_threshold_F"] = theta_F * dtheta_F
        return made

    def _add_pre_activation_loss(
        self, made: Gradients, entries: Entries, batch: Batch, u_E: Tensor, active_E: Tensor, theta_F: Tensor
    ) -> Tensor:
        """Add c sum over tokens and inactive features of (theta_i - z_i) n_i; returns its gradient by theta."""
        n_tokens, norm_F, p = batch.n_tokens, batch.weights.norm_F, batch.parameters
        c = PRE_ACTIVATION_LOSS / n_tokens
        n_inactive_F = n_tokens - made.count_F
        x_D = batch.x_ND.sum(0)
        z_inactive_F = p.W_enc_FD @ x_D + n_tokens * p.b_enc_F - entries.total(u_E) / norm_F
        short_F = n_inactive_F * theta_F - z_inactive_F
        made.dW_FD += c * entries.rows(active_E.float(), batch.x_low_ND)
        made.dW_FD -= c * x_D.to(made.dW_FD.dtype)
        made.dz_F -= c * n_inactive_F
        made.pull_F = c * norm_F * short_F if made.pull_F is None else made.pull_F + c * norm_F * short_F
        made.penalty_loss = made.penalty_loss + c * (norm_F * short_F).sum()
        return c * norm_F * n_inactive_F

    def inference(self, parameters: Parameters) -> tuple[Parameters, Tensor]:
        """Active above the threshold, times the decoder norm in published units."""
        norm_F = parameters.W_dec_FD.norm(dim=1)
        return parameters, parameters.own["log_threshold_F"].exp() * norm_F
