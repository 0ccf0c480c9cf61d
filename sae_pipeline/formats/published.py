"""From any SAE to the published form of this project, and back. Nothing but units changes.

Published: x = s (r - mu), unit decoder rows (`sae_pipeline.sae.autoencoder`). With n_i = ‖d_i‖ of the raw decoder d:

    W_enc = n w     b_enc = s n (c + w mu)     threshold = s n t     W_dec = d / n     b_dec = s (b - mu)     f = s n f_raw

A top-k SAE ranks by its own f_raw = f / (s n): where the n_i differ, `rank_F` keeps that. An SAE that normalises every token by
itself has neither s nor mu in its encoder (both 1 and 0 above). Shapes: F features, D width.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.errors import UserError
from sae_pipeline.formats.raw_sae import Origin, RawSae
from sae_pipeline.sae.autoencoder import SparseAutoencoder

SAME_NORM = 1e-5
"""Relative difference of decoder norms below which a ranking by f and by f ‖W_dec‖ is called the same."""


def to_published(raw: RawSae, scale: float, mean_D: Tensor, config: dict[str, Any]) -> SparseAutoencoder:
    """`config` is completed by what the weights decide (architecture, k, sizes, scale, token_norm)."""
    d_FD, w_FD = raw.W_dec_FD.double(), raw.W_enc_FD.double()
    norm_F = d_FD.norm(dim=1)
    dead_F = norm_F == 0  # a row of zeros changes nothing whatever its activation: f_i ‖d_i‖ = 0
    if raw.k is not None and bool(dead_F.any()):
        what = f"{int(dead_F.sum())} decoder rows are zero, such as {int(dead_F.nonzero()[0])}, but may be among the k largest"
        raise UserError(raw.origin.where, what, "Remove these features, or import another checkpoint.")
    safe_F = torch.where(dead_F, 1.0, norm_F)
    direction_FD = d_FD / safe_F[:, None]
    direction_FD[dead_F, 0] = 1.0
    s, mu_D = (scale, mean_D.double()) if raw.token_norm == "none" else (1.0, torch.zeros(raw.d_model, dtype=torch.float64))
    gain_F = s * norm_F
    weights = {
        "W_enc_FD": norm_F[:, None] * w_FD,
        "b_enc_F": gain_F * (raw.b_enc_F.double() + w_FD @ mu_D),
        "W_dec_FD": direction_FD,
        "b_dec_D": s * (raw.b_dec_D.double() - mu_D),
        "threshold_F": torch.where(dead_F, 1.0, gain_F * raw.threshold_F.double()),
        "mean_D": mean_D,
    }
    alive_F = norm_F[~dead_F]
    if raw.k is not None and len(alive_F) and float(alive_F.max() / alive_F.min()) > 1 + SAME_NORM:
        weights["rank_F"] = float(alive_F.mean()) / safe_F
    about = {
        "architecture": raw.architecture, "k": raw.k, "n_features": raw.n_features, "d_model": raw.d_model, "scale": scale,
        "token_norm": raw.token_norm,
    }  # fmt: skip
    return SparseAutoencoder({name: value.float().contiguous() for name, value in weights.items()}, {**config, **about})


def from_published(sae: SparseAutoencoder, origin: Origin | None = None) -> RawSae:
    """The export rule: raw in, raw out, f unchanged (decoder rows get the norm 1 / s).

    A top-k SAE that ranks by other weights than its values gets its rows back at the norms that make the ranking plain.
    """
    W_enc_FD, b_enc_F, W_dec_FD, b_dec_D, threshold_F, mean_D = (
        value.double().cpu()
        for value in (sae.W_enc_FD, sae.b_enc_F, sae.W_dec_FD, sae.b_dec_D, sae.threshold_F, sae.mean_D)
    )  # fmt: skip
    s = sae.scale if sae.token_norm == "none" else 1.0
    mu_D = mean_D if sae.token_norm == "none" else torch.zeros_like(mean_D)
    rank_F = torch.ones_like(b_enc_F) if sae.rank_F is None else sae.rank_F.double().cpu()
    b_raw_F = b_enc_F - s * (W_enc_FD @ mu_D)
    topk = sae.config["architecture"] == "topk"
    raw = RawSae(
        architecture=sae.config["architecture"],
        W_enc_FD=s * W_enc_FD * rank_F[:, None],
        b_enc_F=b_raw_F * rank_F,
        W_dec_FD=W_dec_FD / s / rank_F[:, None],
        b_dec_D=b_dec_D / s + mu_D,
        threshold_F=torch.zeros_like(threshold_F) if topk else threshold_F,
        k=sae.config["k"] if topk else None,
        token_norm=sae.token_norm,
        origin=origin or Origin("own", "this SAE"),
    )
    floats = {name: value.float().contiguous() for name, value in vars(raw).items() if isinstance(value, Tensor)}
    return replace(raw, **floats)
