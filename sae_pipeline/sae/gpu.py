"""The sparse step on a GPU: what `kernels` and the selections do there, launched without ever waiting for the device.

The host never learns how many pairs a batch has, so arrays have lengths known beforehand (`kernels.Pairs`). Kernels are written
in Triton, which PyTorch's CUDA builds bring along; this file is all that knows how they are launched. It imports without Triton.

Shapes: N tokens, R tokens of a tile, F features, D width, P places for pairs, K active entries per token.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sae_pipeline.errors import UserError

if TYPE_CHECKING:
    from sae_pipeline.sae.architecture import Gradients
    from sae_pipeline.sae.kernels import Pairs
    from sae_pipeline.sae.preactivations import PreActivations

BLOCK_P = 16  # pairs whose rows are on their way at once
BLOCK_D = 256  # columns of a row in one program: 512 bytes in bfloat16
BLOCK_F = 1024  # entries of a row that are scanned at once
SET_ASIDE = 1024  # places of a token's candidates in `largest_of_rows`


def on_gpu(tensor: Tensor) -> bool:
    """Whether this tensor is worked on by the kernels here."""
    return tensor.device.type == "cuda"


def sent(x_ND: Tensor, device: str) -> Tensor:
    """A batch on its way from the CPU to `device`: a GPU fetches it from pinned memory while the host goes on."""
    if torch.device(device).type != "cuda":
        return x_ND.to(device)
    return x_ND.pin_memory().to(device, non_blocking=True)


def launch(file: str, kernel: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Queue a kernel of one of the `triton_*` files. Raises `UserError` where Triton is not installed."""
    try:
        module = import_module(f"sae_pipeline.sae.{file}")
    except ModuleNotFoundError as error:
        what, mend = f"training on a GPU needs Triton ({error})", "pip install triton, or use cpu."
        raise UserError("compute.device", what, mend) from error
    with torch.cuda.device_of(arguments[0]):
        getattr(module, kernel)[grid](*arguments, **constants)


def _columns(d_model: int) -> int:
    return min(BLOCK_D, 1 << (d_model - 1).bit_length())


def sum_rows(table_RD: Tensor, index_P: Tensor, offsets: Tensor, weight_P: Tensor) -> Tensor:
    """Row r is the sum of weight x table[index] over the pairs offsets[r] to offsets[r + 1]; float32."""
    n_rows, d_model, block = len(offsets) - 1, table_RD.shape[1], _columns(table_RD.shape[1])
    out_RD = torch.empty(n_rows, d_model, dtype=torch.float32, device=table_RD.device)
    grid = (n_rows, -(-d_model // block))
    launch("triton_sums", "sum_rows", grid, out_RD, table_RD, index_P, weight_P, offsets, d_model, BLOCK_P=BLOCK_P, BLOCK_D=block)
    return out_RD


def pair_products(pairs: "Pairs", g_ND: Tensor, table_FD: Tensor) -> Tensor:
    """g[token] . table[feature] for each pair, 0 for places without one, P float32."""
    out_P = torch.zeros(pairs.n_pairs, dtype=torch.float32, device=g_ND.device)
    launch(
        "triton_sums", "pair_products", (pairs.n_tokens,), out_P, g_ND, table_FD, pairs.feature_P, pairs.value_P,
        pairs.offsets_N1, g_ND.shape[1], BLOCK_P=BLOCK_P, BLOCK_D=_columns(g_ND.shape[1]),
    )  # fmt: skip
    return out_P


def sum_segments(value_P: Tensor, offsets: Tensor) -> Tensor:
    """Sums of the values offsets[r] to offsets[r + 1], float32."""
    out_R = torch.empty(len(offsets) - 1, dtype=torch.float32, device=value_P.device)
    launch("triton_sums", "sum_segments", (len(out_R),), out_R, value_P, offsets, BLOCK_P=128)
    return out_R


def pairs_above(z: "PreActivations", threshold: Tensor, n_places: int) -> "Pairs":
    """Pairs of the entries above `threshold` (0-dim, >= 0), ascending, as far as places go; `is_short` when too few."""
    from sae_pipeline.sae.kernels import Pairs

    n_tokens, n_features, device = z.n_tokens, z.n_features, threshold.device
    token_P, feature_P = (torch.zeros(n_places, dtype=torch.int32, device=device) for _ in range(2))
    value_P = torch.zeros(n_places, dtype=z.dtype, device=device)
    offsets_N1 = torch.zeros(n_tokens + 1, dtype=torch.int64, device=device)
    threshold = threshold.float()
    for first, z_RF in z.tiles():
        last, grid = first + len(z_RF), (len(z_RF),)
        count_R = torch.empty(len(z_RF), dtype=torch.int32, device=device)
        launch("triton_select", "count_above", grid, count_R, z_RF, threshold, n_features, BLOCK=BLOCK_F)
        torch.add(count_R.cumsum(0), offsets_N1[first], out=offsets_N1[first + 1 : last + 1])
        launch(
            "triton_select", "write_above", grid, token_P, feature_P, value_P, z_RF, threshold, offsets_N1[first:], first,
            n_features, n_places, BLOCK=BLOCK_F,
        )  # fmt: skip
    return Pairs(offsets_N1.clamp(max=n_places).int(), token_P, feature_P, value_P, is_short=offsets_N1[-1] > n_places)


def largest_of_rows(z_RF: Tensor, guess_R: Tensor, value_RK: Tensor, feature_RK: Tensor) -> None:
    """Write the K largest positive entries of each row, features ascending, into arrays of zeros. `guess_R` (float32) should lie
    a little below each row's K-th largest: it decides about the speed only."""
    n_rows, n_features = z_RF.shape
    found_value = torch.empty(n_rows, SET_ASIDE, dtype=z_RF.dtype, device=z_RF.device)
    found_feature = torch.empty(n_rows, SET_ASIDE, dtype=torch.int32, device=z_RF.device)
    launch(
        "triton_select", "largest_of_rows", (n_rows,), feature_RK, value_RK, z_RF, guess_R, found_value, found_feature,
        n_features, value_RK.shape[1], CAPACITY=SET_ASIDE, BLOCK=BLOCK_F, IS_BF16=z_RF.dtype == torch.bfloat16,
    )  # fmt: skip


def kept(pairs: "Pairs", keep_P: Tensor, n_places: int) -> "Pairs":
    """The pairs where `keep_P`, at most `n_places` of them, moved together."""
    from sae_pipeline.sae.kernels import Pairs

    rank_P1 = torch.nn.functional.pad(keep_P.cumsum(0), (1, 0))
    to_P = torch.where(keep_P, rank_P1[:-1], n_places)  # what is not kept goes to a place of its own that is cut off

    def moved(from_P: Tensor) -> Tensor:
        return torch.zeros(n_places + 1, dtype=from_P.dtype, device=from_P.device).scatter_(0, to_P, from_P)[:n_places]

    offsets_N1 = rank_P1[pairs.offsets_N1.long()].int()
    return Pairs(offsets_N1, moved(pairs.token_P), moved(pairs.feature_P), moved(pairs.value_P), is_short=pairs.is_short)


def publish(
    enc_FD: Tensor, dec_FD: Tensor, W_enc_FD: Tensor, W_dec_FD: Tensor, bias_F: Tensor, b_dec_D: Tensor, subtracts: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Write the weights in published units (`parameters.published`) into the first two; (their biases, the decoder's norms)."""
    n_features, d_model = W_enc_FD.shape
    low_F, norm_F = torch.empty_like(enc_FD[:, 0]), torch.empty_like(bias_F)
    launch(
        "triton_rows", "publish", (n_features,), enc_FD, dec_FD, low_F, norm_F, W_enc_FD, W_dec_FD, bias_F, b_dec_D, d_model,
        SUBTRACTS=subtracts, BLOCK_D=_columns(d_model),
    )  # fmt: skip
    return low_F, norm_F


def chain(
    dW_enc_FD: Tensor, dW_dec_FD: Tensor, made: "Gradients", W_dec_FD: Tensor, b_dec_D: Tensor, norm_F: Tensor, subtracts: bool
) -> Tensor:  # fmt: skip
    """Write the gradients of the masters' rows (`step`) into the first two; the sum of squares of each feature's."""
    n_features, d_model = W_dec_FD.shape
    squares_F = torch.empty_like(norm_F)
    pull_F = norm_F if made.pull_F is None else made.pull_F
    launch(
        "triton_rows", "chain", (n_features,), dW_enc_FD, dW_dec_FD, squares_F, made.dW_FD, made.dV_FD, W_dec_FD, b_dec_D,
        norm_F, made.dz_F, pull_F, d_model, SUBTRACTS=subtracts, PULLS=made.pull_F is not None, BLOCK_D=_columns(d_model),
    )  # fmt: skip
    return squares_F
