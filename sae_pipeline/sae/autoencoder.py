"""A trained sparse autoencoder in its published form: unit decoder rows, raw activations in, raw activations out.

Shapes: N tokens, F features, D width, P active (token, feature) pairs.

x = scale (r - mean);  z = W_enc x + b_enc;  f_i = z_i where z_i > threshold_i, else 0;
r_hat = (b_dec + sum f_i W_dec[i]) / scale + mean.
Decoder rows have norm 1, so f_i is the paper's feature activation f_i ‖W_dec,i‖ (section 'Our approach to feature extraction').

`topk`: the k largest z_i are active, as far as they are positive. Two things that only SAEs made elsewhere need: `rank_F` (topk
ranks by rank_i z_i, because theirs ranked before the decoder's norm was folded in) and `token_norm` in the configuration (every
token is normalised by itself before the encoder; see `token_norm`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.precision import choose_dtype
from sae_pipeline.sae import kernels
from sae_pipeline.sae.kernels import Pairs
from sae_pipeline.sae.parameters import Parameters, published
from sae_pipeline.sae.token_norm import EncoderInput, TokenNorm, encoder_input
from sae_pipeline.sae.topk import largest_of_each_row

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
NAMES = ("W_enc_FD", "b_enc_F", "W_dec_FD", "b_dec_D", "threshold_F", "mean_D")
OPTIONAL = ("rank_F",)
CHUNK = 2048
# Entries above this share of the threshold in bfloat16 are computed again in float32. The rounding of a pre-activation is about
# 0.003 for tokens of ordinary norm, the margin about 0.1; tokens of larger norm are selected in float32.
MARGIN = 0.9
ORDINARY_NORM = 4.0
# bfloat16 selects only where the margin exceeds this share of the encoder row's norm: seven standard deviations of the rounding
# of a product with a token of norm sqrt(D), 2^-9 of that norm. Thresholds near 0 are compared in float32.
ROUNDING = 0.015


@dataclass(frozen=True)
class SparseCodes:
    """Feature activations of N tokens in row-compressed form: token n has entries offsets[n] : offsets[n + 1]."""

    offsets: Tensor
    """N + 1, int64."""
    feature: Tensor
    """P, int32, ascending within a token."""
    value: Tensor
    """P, float32, positive."""
    frame: EncoderInput | None = None
    """How each token was normalised by itself, where the SAE does that; `decode_sparse` undoes it."""

    @property
    def token(self) -> Tensor:
        """Token of each entry, P, int64."""
        token_N = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return token_N.repeat_interleave(self.offsets.diff())


class SparseAutoencoder:
    """Encoder and decoder with every constant that they need. Weights are float32; `config` says where they come from."""

    def __init__(self, weights: dict[str, Tensor], config: dict[str, Any]) -> None:
        self.W_enc_FD, self.b_enc_F, self.W_dec_FD, self.b_dec_D, self.threshold_F, self.mean_D = (
            weights[name] for name in NAMES
        )
        self.rank_F = weights.get("rank_F")
        self.config = config
        self.scale = float(config["scale"])
        self.token_norm: TokenNorm = config.get("token_norm", "none")
        self._selection_dtype = choose_dtype(self.W_enc_FD.device, "auto")[0]
        self._W_enc_low_FD: Tensor | None = None
        self._norm_F = self.W_enc_FD.norm(dim=1)

    # --- where it comes from

    @classmethod
    def from_parameters(
        cls, parameters: Parameters, subtracts_decoder_bias: bool, threshold: Tensor | float, mean_D: Tensor,
        config: dict[str, Any],
    ) -> "SparseAutoencoder":  # fmt: skip
        """Fold training parameters: decoder norms into encoder rows and biases, b_dec into the biases if they saw x - b_dec.

        `threshold` (one, or F) is already in published units (it was compared with f_i ‖W_dec,i‖).
        """
        with torch.no_grad():
            folded = published(parameters, torch.float32, subtracts_decoder_bias)
            weights = {
                "W_enc_FD": folded.W_enc_FD, "b_enc_F": folded.b_enc_F, "W_dec_FD": folded.W_dec_FD,
                "b_dec_D": parameters.b_dec_D.clone(), "threshold_F": torch.ones_like(folded.b_enc_F) * threshold,
                "mean_D": mean_D.float(),
            }  # fmt: skip
        return cls({name: value.detach().cpu().contiguous() for name, value in weights.items()}, config)

    @classmethod
    def load(cls, folder: Path | str, device: str | torch.device = "cpu") -> "SparseAutoencoder":
        """Read `weights.safetensors` and `config.json`. `UserError` when they are missing, truncated or disagree."""
        folder = Path(folder)
        mend = "Train this size again (`sae-pipeline run`)."
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)
        except FileNotFoundError as error:
            raise UserError(str(error.filename or folder / WEIGHTS), "is not there", mend) from error
        except (SafetensorError, json.JSONDecodeError) as error:
            raise UserError(str(folder), f"holds no readable SAE: {error}", mend) from error
        size = (config["n_features"], config["d_model"])
        missing = [name for name in NAMES if name not in weights]
        if missing or weights["W_enc_FD"].shape != size or weights["W_dec_FD"].shape != size:
            found = f"{'missing ' + ', '.join(missing) if missing else tuple(weights['W_enc_FD'].shape)}"
            raise UserError(str(folder / WEIGHTS), f"does not fit config.json (expected {size}, found {found})", mend)
        # A copy of our own: rows inside a file's buffer are aligned otherwise, and then sums round otherwise.
        return cls({name: value.to(device, copy=True) for name, value in weights.items()}, config)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Every tensor by its name in the file."""
        return {name: getattr(self, name) for name in (*NAMES, *OPTIONAL) if getattr(self, name) is not None}

    def save(self, folder: Path | str) -> None:
        """Write `weights.safetensors` and `config.json` into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.cpu().contiguous() for name, value in self.weights.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def to(self, device: str | torch.device) -> "SparseAutoencoder":
        """A copy on another device (itself if it is there already)."""
        if torch.device(device) == self.W_enc_FD.device:
            return self
        return SparseAutoencoder({name: value.to(device) for name, value in self.weights.items()}, self.config)

    @property
    def n_features(self) -> int:
        """F."""
        return self.W_dec_FD.shape[0]

    @property
    def d_model(self) -> int:
        """D."""
        return self.W_dec_FD.shape[1]

    # --- raw activations -> features

    def scaled(self, r_ND: Tensor) -> Tensor:
        """scale (r - mean), float32: the space of the metrics, and what the encoder reads unless it normalises every token."""
        return (r_ND.to(self.W_enc_FD.device).float() - self.mean_D) * self.scale

    def encoder_input(self, r_ND: Tensor) -> EncoderInput:
        """x as the encoder reads it, and the way back to raw."""
        return encoder_input(r_ND.to(self.W_enc_FD.device).float(), self.mean_D, self.scale, self.token_norm)

    @torch.no_grad()
    def encode_sparse(self, r_ND: Tensor) -> SparseCodes:
        """Feature activations of raw activations `r_ND` (any float dtype).

        Values are float32 dot products, computed pair by pair: they do not depend on the other tokens of the batch.
        """
        chunks = [self._pairs(self.encoder_input(chunk_ND).x) for chunk_ND in r_ND.split(CHUNK)]
        counts_N = [pairs.offsets_N1.diff().long() for pairs in chunks]
        zero_1 = torch.zeros(1, dtype=torch.int64, device=self.W_enc_FD.device)
        return SparseCodes(
            torch.cat([zero_1, *counts_N]).cumsum(0),
            torch.cat([pairs.feature_P for pairs in chunks]) if chunks else zero_1[:0].int(),
            torch.cat([pairs.value_P for pairs in chunks]) if chunks else zero_1[:0].float(),
            None if self.token_norm == "none" else self.encoder_input(r_ND),
        )

    def encode(self, r_ND: Tensor) -> Tensor:
        """The same as a dense array, N x F float32. Only for small N F."""
        codes = self.encode_sparse(r_ND)
        f_NF = torch.zeros(len(r_ND), self.n_features, device=self.W_enc_FD.device)
        f_NF[codes.token, codes.feature.long()] = codes.value
        return f_NF

    def _pairs(self, x_ND: Tensor) -> Pairs:
        if self.config["architecture"] == "topk":
            return largest_of_each_row(self._pre_activations(x_ND), self.config["k"], self.rank_F)
        active_F = self.threshold_F.clamp(min=0)  # activations are positive
        lowest = float(active_F.min())
        uniform = lowest == float(active_F.max())
        if uniform and lowest == 0:
            z_NF = self._pre_activations(x_ND)
            return kernels.pairs_at(z_NF, kernels.positions_above(z_NF, 0.0))
        low_is_enough = bool(((1 - MARGIN) * active_F > ROUNDING * self._norm_F).all())
        z_NF = self._low_pre_activations(x_ND) if low_is_enough else self._pre_activations(x_ND)
        if uniform:
            position_P = kernels.positions_above(z_NF, MARGIN * lowest)
        else:
            position_P = kernels.positions_above(z_NF - (MARGIN * active_F).to(z_NF), 0.0)
        pairs = kernels.pairs_at(z_NF, position_P)
        value_P = kernels.pair_products(pairs, x_ND, self.W_enc_FD) + self.b_enc_F[pairs.feature_P.long()]
        return pairs.subset(value_P > active_F[pairs.feature_P.long()], value_P)

    def _pre_activations(self, x_ND: Tensor) -> Tensor:
        return torch.addmm(self.b_enc_F, x_ND, self.W_enc_FD.T)

    def _low_pre_activations(self, x_ND: Tensor) -> Tensor:
        """Pre-activations in the fast dtype, good enough to find candidates."""
        if self._W_enc_low_FD is None:
            self._W_enc_low_FD = self.W_enc_FD.to(self._selection_dtype)
        dtype = self._selection_dtype
        z_NF = torch.addmm(self.b_enc_F.to(dtype), x_ND.to(dtype), self._W_enc_low_FD.T)
        large_N = x_ND.norm(dim=1) > ORDINARY_NORM * self.d_model**0.5
        if dtype != torch.float32 and bool(large_N.any()):
            z_NF[large_N] = self._pre_activations(x_ND[large_N]).to(dtype)
        return z_NF

    # --- features -> raw activations

    @torch.no_grad()
    def decode_sparse(self, codes: SparseCodes) -> Tensor:
        """Raw reconstruction, N x D float32, from sparse codes."""
        pairs = Pairs(codes.offsets, codes.token, codes.feature.long(), codes.value)
        y_ND = kernels.decode(pairs, self.W_dec_FD) + self.b_dec_D
        shift, gain = (self.mean_D, self.scale) if codes.frame is None else (codes.frame.shift, codes.frame.gain)
        return y_ND / gain + shift

    @torch.no_grad()
    def decode(self, f_NF: Tensor) -> Tensor:
        """The same from dense feature activations. Raises `ValueError` for an SAE that normalises every token by itself."""
        if self.token_norm != "none":
            raise ValueError(f"dense activations do not know their token's {self.token_norm}: use decode_sparse or reconstruct")
        return (f_NF.to(self.W_dec_FD) @ self.W_dec_FD + self.b_dec_D) / self.scale + self.mean_D

    def reconstruct(self, r_ND: Tensor) -> Tensor:
        """decode(encode(r)), N x D float32, without a dense feature array."""
        return self.decode_sparse(self.encode_sparse(r_ND))
