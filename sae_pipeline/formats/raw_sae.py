"""An SAE as other tools know it: raw activations in, raw activations out. What every reader makes and every writer takes.

Shapes: N tokens, F features, D width.

x = r, or the token's own normalisation (`token_norm`);  z = W_enc x + b_enc;
f_i = z_i where z_i > max(0, threshold_i), and with `k` only for the k largest z of a token;
r_hat = b_dec + sum f_i W_dec[i], and back through the token's normalisation.
Whether a format subtracts b_dec first is gone here: readers fold it into b_enc. Decoder rows have any norm.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_pipeline.sae.names import Architecture
from sae_pipeline.sae.token_norm import TokenNorm, encoder_input


@dataclass(frozen=True)
class Origin:
    """What a file says about itself. None: it does not say."""

    format: str
    where: str
    model: str | None = None
    hook: str | None = None
    """As the file spells it (`sae_pipeline.formats.hooks` reads it)."""
    context: int | None = None
    bos: bool | None = None
    n_tokens_trained: int | None = None
    dtype: str = "float32"
    notes: tuple[str, ...] = field(default=())
    """What was done on the way in that a person should know."""


@dataclass(frozen=True)
class RawSae:
    """Float32 weights and what is known about them."""

    architecture: Architecture
    W_enc_FD: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    threshold_F: Tensor
    origin: Origin
    k: int | None = None
    token_norm: TokenNorm = "none"

    @property
    def n_features(self) -> int:
        """F."""
        return self.W_dec_FD.shape[0]

    @property
    def d_model(self) -> int:
        """D."""
        return self.W_dec_FD.shape[1]

    def forward(self, r_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(f_NF, r_hat_ND) by the definition above, dense, in float64: the yardstick of checks, not for speed."""
        W_enc_FD, b_enc_F, W_dec_FD, b_dec_D, threshold_F = (
            value.double() for value in (self.W_enc_FD, self.b_enc_F, self.W_dec_FD, self.b_dec_D, self.threshold_F)
        )
        frame = encoder_input(r_ND.double(), torch.zeros(self.d_model, dtype=torch.float64), 1.0, self.token_norm)
        z_NF = frame.x @ W_enc_FD.T + b_enc_F
        active_NF = z_NF > threshold_F.clamp(min=0)
        if self.k is not None:
            largest_NF = torch.zeros_like(active_NF).scatter_(1, z_NF.topk(self.k, dim=1).indices, True)
            active_NF = active_NF & largest_NF
        f_NF = torch.where(active_NF, z_NF, 0.0)
        return f_NF, (f_NF @ W_dec_FD + b_dec_D) / frame.gain + frame.shift


def folded(b_enc_F: Tensor, W_enc_FD: Tensor, b_dec_D: Tensor) -> Tensor:
    """b_enc of an encoder that reads x, from one that reads x - b_dec; the product in float64."""
    return (b_enc_F.double() - W_enc_FD.double() @ b_dec_D.double()).float()
