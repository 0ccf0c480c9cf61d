"""Interventions on the hook activation: clamp a feature, or add its direction (paper, 'Feature steering').

    clamp   r' = r + (c - f_i(r)) W_dec[i] / s      the SAE's error stays in: only feature i's part of the sum changes
    add     r' = r + c W_dec[i] / s

r is raw, f_i the stored feature activation (in scaled space x = s (r - mu)), W_dec[i] the published unit row, c in units of the
feature activation; where an SAE normalises every token by itself, s is that token's own. Every row of a batch may steer its own
units, so that many features share one forward pass.

Shape legend: B rows, T positions, K units per row, D model width, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.token_norm import encoder_input

Mode = Literal["clamp", "add"]
Positions = Literal["not_massive", "all", "prompt", "response"]


@dataclass(frozen=True)
class Push:
    """One unit to steer. `value` is c. A unit without `feature` is a bare `direction_D` (unit norm) and can only be added."""

    value: float
    mode: Mode
    feature: int | None = None
    direction_D: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.feature is None) == (self.direction_D is None):
            raise ValueError("a push names either an SAE feature or a direction")
        if self.feature is None and self.mode == "clamp":
            raise ValueError("a direction has no activation to clamp: only `add` is defined for it")


class Intervention:
    """An `edit` for `LanguageModel.edited` and `LanguageModel.generate`.

    `rows[b]` are the pushes of batch row b (none: that row stays untouched). One row serves a batch of any size. `repeats[b]`:
    how many times row b occurs once its prompt has been read (`LanguageModel.generate(repeats=...)`).

    `positions`: `not_massive` leaves activations with a norm above `threshold_norm` alone (the attention sink carries no
    feature, and moving it wrecks the model); `all` is the paper; `response` steers from the last prompt token on, the one that
    predicts the first word of the answer, and leaves massive activations alone too; `prompt` steers the tokens before that one,
    while the prompt is read, and nothing afterwards: the answer feels it through the cache alone. No position is in both.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        rows: Sequence[Sequence[Push]],
        threshold_norm: float,
        positions: Positions = "not_massive",
        device: torch.device | str = "cpu",
        repeats: Sequence[int] | None = None,
    ) -> None:
        self.sae, self.threshold_norm, self.positions = sae, threshold_norm, positions
        self.scale = float(sae.scale)
        self.mean_D = sae.mean_D.float().to(device)
        n_units = max((len(row) for row in rows), default=0)
        shape = (len(rows), n_units)
        # A slot without a push keeps direction 0 and changes nothing.
        direction_BKD, encoder_BKD = (torch.zeros(*shape, sae.d_model) for _ in range(2))
        bias_BK, threshold_BK, value_BK, clamped_BK = (torch.zeros(shape) for _ in range(4))
        feature_BK = torch.zeros(shape, dtype=torch.int64)
        for b, row in enumerate(rows):
            for k, push in enumerate(row):
                value_BK[b, k] = push.value
                if push.direction_D is not None:
                    direction_BKD[b, k] = push.direction_D.float()
                    continue
                feature_BK[b, k] = feature = push.feature or 0
                direction_BKD[b, k] = sae.W_dec_FD[feature].float()
                if push.mode == "clamp":
                    clamped_BK[b, k] = 1.0
                    encoder_BKD[b, k] = sae.W_enc_FD[feature].float()
                    bias_BK[b, k] = float(sae.b_enc_F[feature])
                    threshold_BK[b, k] = max(0.0, float(sae.threshold_F[feature]))  # activations are positive
        packed = (direction_BKD, encoder_BKD, bias_BK, threshold_BK, value_BK, clamped_BK, feature_BK)
        self._packed = tuple(parameter.to(device) for parameter in packed)
        self._repeated = self._packed
        if repeats is not None:
            row_of = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(repeats)).to(device)
            self._repeated = tuple(parameter[row_of] for parameter in self._packed)

    def __call__(self, r_BTD: Tensor, token_ids_BT: Tensor | None, position_offset: int) -> Tensor:
        """The steered activation, in the dtype of `r_BTD`; arithmetic in float32.

        `position_offset` is 0 while the prompt is read and the number of cached tokens afterwards.
        """
        direction_BKD, encoder_BKD, bias_BK, threshold_BK, value_BK, clamped_BK, feature_BK = self._rows(len(r_BTD))
        raw_BTD = r_BTD.float()
        frame = encoder_input(raw_BTD, self.mean_D, self.scale, self.sae.token_norm)
        if self.sae.config["architecture"] == "topk":
            f_BTK = self._among_largest(raw_BTD, feature_BK)
        else:
            # One feature's activation needs no other feature: it is active above the stored threshold.
            pre_BTK = torch.einsum("btd,bkd->btk", frame.x, encoder_BKD) + bias_BK[:, None]
            f_BTK = torch.where(pre_BTK > threshold_BK[:, None], pre_BTK, 0.0)
        shift_BTK = value_BK[:, None] - f_BTK * clamped_BK[:, None]
        shift_BTD = torch.einsum("btk,bkd->btd", shift_BTK, direction_BKD) / frame.gain
        steered_BT = self._steered(raw_BTD, position_offset)
        return torch.where(steered_BT[..., None], raw_BTD + shift_BTD, raw_BTD).to(r_BTD.dtype)

    def _among_largest(self, raw_BTD: Tensor, feature_BK: Tensor) -> Tensor:
        """f_BTK of a `topk` SAE, where the k largest of all features are active."""
        f_BTK = torch.zeros(*raw_BTD.shape[:2], feature_BK.shape[1], device=raw_BTD.device)
        for b, raw_TD in enumerate(raw_BTD):
            f_BTK[b] = self.sae.encode(raw_TD).to(raw_BTD.device)[:, feature_BK[b]]
        return f_BTK

    def _steered(self, raw_BTD: Tensor, position_offset: int) -> Tensor:
        if self.positions == "all":
            return torch.ones(raw_BTD.shape[:2], dtype=torch.bool, device=raw_BTD.device)
        steered_BT = raw_BTD.norm(dim=-1) <= self.threshold_norm
        # Prompts are left-padded: their last token is the last column.
        if self.positions == "response" and position_offset == 0:
            steered_BT[:, :-1] = False
        if self.positions == "prompt":
            steered_BT[:, -1 if position_offset == 0 else 0 :] = False
        return steered_BT

    def _rows(self, n_rows: int) -> tuple[Tensor, ...]:
        for parameters in (self._packed, self._repeated):
            if len(parameters[0]) == n_rows:
                return parameters
        if len(self._packed[0]) == 1:
            return tuple(parameter.expand(n_rows, *parameter.shape[1:]) for parameter in self._packed)
        raise ValueError(f"an intervention for {len(self._packed[0])} rows met a batch of {n_rows}")


def pushes(feature_values: Mapping[int, float], mode: Mode, n_features: int) -> list[Push]:
    """Pushes for {feature: c}, several features at once. Raises `ValueError` for a feature that the SAE does not have."""
    for feature in feature_values:
        if not 0 <= feature < n_features:
            raise ValueError(f"feature {feature} is not in 0..{n_features - 1}")
    return [Push(value, mode, feature) for feature, value in feature_values.items()]


def random_directions(n_directions: int, d_model: int, generator: torch.Generator) -> Tensor:
    """Uniform random unit vectors, n_directions x D, float32: the control without any feature."""
    gaussian = torch.randn(n_directions, d_model, generator=generator)
    return gaussian / gaussian.norm(dim=1, keepdim=True)
