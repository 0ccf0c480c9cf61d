"""What an SAE's encoder reads of a raw activation, and the way back.

Our own SAEs use one mean and one scale for all tokens. Some published ones normalise every token by itself, which cannot be
folded into weights: `layer_norm` subtracts the token's mean over dimensions and divides by its standard deviation (OpenAI's
top-k SAEs, SAELens `layer_norm`), `constant_norm` gives every token the norm sqrt(D) (SAELens `constant_norm_rescale`).

Shapes: any leading dimensions ..., width D.
"""

from typing import Literal, NamedTuple

from torch import Tensor

TokenNorm = Literal["none", "layer_norm", "constant_norm"]
EPSILON = 1e-5  # of both sources; added to the standard deviation, not to the variance, and only on the way in
TINY = 1e-30


class EncoderInput(NamedTuple):
    """x, and how a reconstruction y in its space becomes raw: y / gain + shift."""

    x: Tensor
    shift: Tensor
    gain: Tensor | float


def encoder_input(r: Tensor, mean_D: Tensor, scale: float, token_norm: TokenNorm) -> EncoderInput:
    """x = scale (r - mean), or the token's own normalisation, in which mean and scale have no part. `r` is float32."""
    if token_norm == "layer_norm":
        shift = r.mean(-1, keepdim=True)
        std = (r - shift).std(-1, keepdim=True)  # divides by D - 1, as both sources do
        return EncoderInput((r - shift) / (std + EPSILON), shift, 1 / std.clamp(min=TINY))
    if token_norm == "constant_norm":
        gain = r.shape[-1] ** 0.5 / r.norm(dim=-1, keepdim=True).clamp(min=TINY)
        return EncoderInput(r * gain, r.new_zeros(1), gain)
    return EncoderInput((r - mean_D) * scale, mean_D, scale)
