"""Checklist row 1: our gradients are those of the paper's loss, and the loss does not see how f and W_dec share their scale.

    loss = mean over tokens of ‖x - x_hat‖² + lambda sum_i f_i ‖W_dec,i‖        (paper, 'Our approach to feature extraction')

The reference is written down here once more, in float64, and differentiated by autograd; it shares no code with `sae.step`.

Shapes: N tokens, F features (a part of the SAE's), D width.
"""

import torch
from torch import Tensor
from torch.nn import Parameter

from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.parameters import Parameters
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.step import Step
from sae_pipeline.survey.measurement import Measurement

L1 = 5.0  # the paper's lambda
N_RESCALINGS = 8
N_FEATURES = 1024  # of the smallest SAE: dense float64 products of these are quick
NAMES = ("W_enc_FD", "b_enc_F", "W_dec_FD", "b_dec_D")


def training_parameters(sae: SparseAutoencoder, generator: torch.Generator) -> Parameters:
    """Evenly spread features of a published SAE with decoder norms drawn anew from 0.5 .. 2, as training could hold them."""
    chosen = torch.linspace(0, sae.n_features - 1, min(N_FEATURES, sae.n_features)).long()
    norm_F1 = 0.5 * 4 ** torch.rand(len(chosen), 1, generator=generator)
    W_enc_FD, W_dec_FD = sae.W_enc_FD[chosen].cpu() / norm_F1, sae.W_dec_FD[chosen].cpu() * norm_F1
    b_dec_D = sae.b_dec_D.cpu()
    b_enc_F = sae.b_enc_F[chosen].cpu() / norm_F1[:, 0] + W_enc_FD @ b_dec_D  # while training the encoder sees x - b_dec
    return Parameters(Parameter(W_enc_FD), Parameter(b_enc_F), Parameter(W_dec_FD), Parameter(b_dec_D.clone()))


def reference_loss(x_ND: Tensor, p: dict[str, Tensor], penalty: float, k: int | None, weighted: bool = True) -> Tensor:
    """The loss in the dtype of its inputs; the encoder sees x - b_dec.

    `k`: instead of a penalty, the k N largest f_i ‖W_dec,i‖ of the batch are active. `weighted` false leaves decoder norms out
    of the penalty, as the loss of 2023 did.
    """
    norm_F = p["W_dec_FD"].norm(dim=1)
    z_NF = (x_ND - p["b_dec_D"]) @ p["W_enc_FD"].T + p["b_enc_F"]
    f_NF = z_NF.relu()
    if k is not None:
        u_NF = (f_NF * norm_F).detach()
        least = u_NF.flatten().topk(k * len(x_ND)).values[-1]
        f_NF = torch.where(u_NF >= least, f_NF, 0)
    error_N = (x_ND - f_NF @ p["W_dec_FD"] - p["b_dec_D"]).square().sum(1)
    return (error_N + penalty * (f_NF * (norm_F if weighted else 1)).sum(1)).mean()


def gradient_error(architecture: Architecture, parameters: Parameters, x_ND: Tensor, k: int | None, weighted: bool) -> float:
    """Largest ‖g - g_reference‖ / ‖g_reference‖ over the four parameters."""
    penalty = L1 if k is None else 0.0
    Step(parameters, architecture, torch.float32)(x_ND, penalty)
    own = parameters.named()
    reference = {name: own[name].detach().double().requires_grad_() for name in NAMES}
    reference_loss(x_ND.double(), reference, penalty, k, weighted).backward()
    worst = 0.0
    for name, expected in reference.items():
        found, wanted = own[name].grad, expected.grad
        assert found is not None and wanted is not None
        worst = max(worst, float((found.double() - wanted).norm() / wanted.norm()))
    return worst


def loss_gradient_error(sae: SparseAutoencoder, x_ND: Tensor, generator: torch.Generator) -> Measurement:
    """Of the paper's loss, and of the study's own where it is that of `batch_topk`, at real activations."""
    relu_l1 = training_parameters(sae, generator)
    value = gradient_error(ReluL1(L1), relu_l1, x_ND, None, weighted=True)
    control = gradient_error(ReluL1(L1), relu_l1, x_ND, None, weighted=False)
    which = "of relu_l1"
    if sae.config["architecture"] == "batch_topk":
        k = min(int(sae.config["k"]), N_FEATURES // 4)
        own = training_parameters(sae, generator)
        value = max(value, gradient_error(BatchTopK(k), own, x_ND, k, weighted=True))
        which = "of relu_l1 and of batch_topk, the larger"
    return Measurement(
        "loss_gradient_error", f"relative error of the step's gradients against float64 autograd, {which}", value,
        len(x_ND), len(x_ND), control="penalty without the decoder norms", control_value=control,
        why="the worst of the parameters: a bound, so without an interval", rows="survey_measurements",
    )  # fmt: skip


@torch.no_grad()
def rescaling_invariance_error(sae: SparseAutoencoder, x_ND: Tensor, generator: torch.Generator) -> Measurement:
    """Relative change of our loss when every feature's f is divided and its W_dec multiplied by a number from 0.1 to 10."""
    before = training_parameters(sae, generator)
    loss, unweighted = _losses(before, x_ND)
    changes, unweighted_changes = [], []
    for _ in range(N_RESCALINGS):
        factor_F = 10 ** (2 * torch.rand(before.n_features, generator=generator) - 1)
        after = Parameters(
            Parameter(before.W_enc_FD / factor_F[:, None]), Parameter(before.b_enc_F / factor_F),
            Parameter(before.W_dec_FD * factor_F[:, None]), Parameter(before.b_dec_D.clone()),
        )  # fmt: skip
        rescaled, unweighted_rescaled = _losses(after, x_ND)
        changes.append(abs(rescaled - loss) / loss)
        unweighted_changes.append(abs(unweighted_rescaled - unweighted) / unweighted)
    return Measurement(
        "rescaling_invariance_error", "largest relative change of the loss under f / c, c W_dec", max(changes),
        N_RESCALINGS, N_RESCALINGS, control="penalty without the decoder norms", control_value=min(unweighted_changes),
        why=f"random c of every feature, over {len(x_ND)} tokens; a bound, so without an interval",
    )  # fmt: skip


def _losses(parameters: Parameters, x_ND: Tensor) -> tuple[float, float]:
    """Our loss, and the reference without the decoder norms."""
    doubled = {name: parameters.named()[name].double() for name in NAMES}
    ours = Step(parameters, ReluL1(L1), torch.float32)(x_ND, L1).loss
    return float(ours), float(reference_loss(x_ND.double(), doubled, L1, None, weighted=False))
