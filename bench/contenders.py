"""What can be timed: our step, and the machine's own limits. PyTorch and NumPy alone. Peers: `bench.peers`.

A contender has `step(x_ND)`, one whole training step (forward, backward, clipping, Adam, dead counters), and `mse(x_ND)`, the
squared error per token, summed over D, at its present weights.

Shapes: N tokens of a batch, F features, D width.
"""

import numpy as np
import torch
from torch import Tensor

from bench.setting import Spec, bias_for_l0, initial_decoder
from sae_pipeline.sae.architecture import Architecture
from sae_pipeline.sae.batch_topk import BatchTopK
from sae_pipeline.sae.gated import Gated
from sae_pipeline.sae.jumprelu import JumpReLU
from sae_pipeline.sae.learner import DEAD_AFTER_TOKENS, Learner
from sae_pipeline.sae.matryoshka import Matryoshka, prefix_lengths
from sae_pipeline.sae.names import has_k
from sae_pipeline.sae.relu_l1 import ReluL1
from sae_pipeline.sae.step import Step
from sae_pipeline.sae.topk import TopK

PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
L1 = 0.1
JUMPRELU_THRESHOLD, JUMPRELU_BANDWIDTH = 0.001, 0.001
JUMPRELU_FORM = "step"  # a penalty on the number of active features


class Ours:
    """`sae_pipeline`. Options: `form` forces the `sparse` form, or the plain `dense` one that looks for no active entries (only
    where every positive entry is active); `dead`: share of the features that count as dead in every step, so that AuxK works."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        shape = spec.shape
        self.learner = Learner(shape.d_model, shape.n_features, _architecture(spec), getattr(torch, spec.dtype), 0, spec.device)
        p, W_FD = self.learner.parameters, initial_decoder(shape, spec.seed)
        with torch.no_grad():
            p.W_enc_FD.copy_(torch.from_numpy(W_FD))
            p.W_dec_FD.copy_(torch.from_numpy(W_FD))
            if spec.target_l0:
                p.b_enc_F.fill_(bias_for_l0(x_ND, W_FD, spec.target_l0))
            if "log_threshold_F" in p.own:
                p.own["log_threshold_F"].fill_(float(np.log(JUMPRELU_THRESHOLD)))
        self.penalty = 0.0 if has_k(spec.architecture) else L1
        self.learning_rate = spec.learning_rate
        options = spec.options or {}
        if options.get("form") == "sparse":
            # On a GPU this is also what arrays are sized by: room for twice what is asked for, not for every entry.
            self.learner.step.dense_above_share = 2 * (spec.target_l0 or shape.k) / shape.n_features
        if options.get("form") == "dense":
            setattr(self.learner.architecture, "select", lambda *_: None)  # noqa: B010 - of this one object
        self._n_dead = round(options.get("dead", 0) * shape.n_features)
        self.config = {
            "architecture": spec.architecture, "adam": "fused, betas (0.9, 0.999)", "clip_norm": 1.0, "unit_norm_decoder": False,
            "products": spec.dtype, "masters": "float32", "auxk": f"on, {self._n_dead} features dead", "penalty": self.penalty,
        }  # fmt: skip
        if spec.architecture == "jumprelu":
            form = {"form": JUMPRELU_FORM, "threshold": JUMPRELU_THRESHOLD, "bandwidth": JUMPRELU_BANDWIDTH}
            self.config |= {"jumprelu": form}

    def step(self, x_ND: Tensor) -> None:
        """One training step."""
        self.learner.tokens_since_active_F[: self._n_dead] = DEAD_AFTER_TOKENS
        self.learner.learn(x_ND, self.penalty, self.learning_rate)

    def mse(self, x_ND: Tensor) -> float:
        """Squared error per token."""
        step = Step(self.learner.parameters, self.learner.architecture, self.learner.step.dtype)
        return float(step(x_ND, self.penalty).mse)


def _architecture(spec: Spec) -> Architecture:
    shape = spec.shape
    match spec.architecture:
        case "topk":
            return TopK(shape.k)
        case "batch_topk":
            return BatchTopK(shape.k)
        case "matryoshka":
            return Matryoshka(shape.k, prefix_lengths(shape.n_features, PREFIXES))
        case "relu_l1":
            return ReluL1(L1)
        case "gated":
            return Gated(L1)
        case "jumprelu":
            made = JumpReLU(L1, JUMPRELU_FORM, shape.d_model)
            made.bandwidth = JUMPRELU_BANDWIDTH
            return made
    raise ValueError(spec.architecture)


class EncodeOnly:
    """The floor of any step: the encoder's product alone, in this dtype, into an array that is there already."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        dtype, shape = getattr(torch, spec.dtype), spec.shape
        self._W_FD = torch.from_numpy(initial_decoder(shape, spec.seed)).to(spec.device, dtype)
        self._out_NF = torch.empty(shape.batch, shape.n_features, dtype=dtype, device=spec.device)
        self._low = [torch.from_numpy(part).to(spec.device, dtype) for part in np.split(x_ND, len(x_ND) // shape.batch)]
        self._next = 0
        self.config = {"operations": 2 * shape.d_model * shape.n_features}

    def step(self, x_ND: Tensor) -> None:
        """The product."""
        torch.mm(self._low[self._next % len(self._low)], self._W_FD.T, out=self._out_NF)
        self._next += 1

    def mse(self, x_ND: Tensor) -> None:
        """Has none."""


class Copy:
    """Memory bandwidth: reads and writes 64 MiB (per token of the shape's batch, for the same bookkeeping)."""

    BYTES = 2 * 2**26

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        self._from, self._to = (torch.zeros(2**26, dtype=torch.uint8, device=spec.device) for _ in range(2))
        self.config = {"bytes": self.BYTES}

    def step(self, x_ND: Tensor) -> None:
        """The copy."""
        self._to.copy_(self._from)

    def mse(self, x_ND: Tensor) -> None:
        """Has none."""


OWN = {"ours": Ours, "encode only": EncodeOnly, "copy": Copy}
