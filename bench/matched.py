"""Our step under a peer's rules, to show that the step itself is the same: `loss`, clipping and constraints are then the peer's.

Options: `unit_rows`: the gradient's part along each decoder row is taken off, and rows get norm 1 again after the update;
`loss`: "fvu" divides the squared error by the batch's variance; `clips`: whether gradients are clipped (default yes).
"""

import numpy as np
import torch
from torch import Tensor

from bench.contenders import Ours
from bench.setting import Spec
from sae_pipeline.sae.learner import CLIP_NORM


class Matched(Ours):
    """`Ours`, with an update of its own."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        super().__init__(spec, x_ND)
        rules = spec.options or {}
        self._unit_rows, self._clips = rules.get("unit_rows", False), rules.get("clips", True)
        self._is_fvu = rules.get("loss") == "fvu"
        self.config |= {"rules": rules}

    @torch.no_grad()
    def step(self, x_ND: Tensor) -> None:
        """One training step."""
        learner, W_dec_FD = self.learner, self.learner.parameters.W_dec_FD
        learner.step(x_ND, self.penalty)
        parameters = list(learner.parameters.named().values())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self._is_fvu:
            variance = (x_ND - x_ND.mean(0)).square().sum() / len(x_ND)
            for gradient in gradients:
                gradient /= variance
        if self._unit_rows:
            assert W_dec_FD.grad is not None
            W_dec_FD.grad -= (W_dec_FD.grad * W_dec_FD).sum(1, keepdim=True) * W_dec_FD
        if self._clips:
            torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        for group in learner.optimizer.param_groups:
            group["lr"] = self.learning_rate * group["rate"]
        learner.optimizer.step()
        if self._unit_rows:
            W_dec_FD /= W_dec_FD.norm(dim=1, keepdim=True)


MATCHED = {"ours under a peer's rules": Matched}
