"""Triton kernels over rows of the weights: what is done once a step with every parameter, each in one pass over memory.

Imported on first use on a GPU only (`gpu.py`). Shapes: F features, D width; a program has one feature's rows, BLOCK_D columns at
a time.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def publish(
    enc_out_FD, dec_out_FD, bias_out_F, norm_F, W_enc_FD, W_dec_FD, bias_F, b_dec_D, D, SUBTRACTS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Unit decoder rows, their norms folded into encoder and bias; SUBTRACTS: W_enc b_dec is taken off the bias before."""
    feature = tl.program_id(0)
    row = feature.to(tl.int64) * D
    squares, along = tl.full([BLOCK_D], 0, tl.float32), tl.full([BLOCK_D], 0, tl.float32)
    for left in range(0, D, BLOCK_D):
        column = left + tl.arange(0, BLOCK_D)
        w = tl.load(W_dec_FD + row + column, mask=column < D, other=0.0)
        squares += w * w
        if SUBTRACTS:
            b = tl.load(b_dec_D + column, mask=column < D, other=0.0)
            along += b * tl.load(W_enc_FD + row + column, mask=column < D, other=0.0)
    norm = tl.sqrt_rn(tl.sum(squares, axis=0))
    for left in range(0, D, BLOCK_D):
        column = left + tl.arange(0, BLOCK_D)
        inside = column < D
        encoder = tl.load(W_enc_FD + row + column, mask=inside, other=0.0) * norm
        decoder = tl.div_rn(tl.load(W_dec_FD + row + column, mask=inside, other=0.0), norm)
        tl.store(enc_out_FD + row + column, encoder.to(enc_out_FD.dtype.element_ty), mask=inside)
        tl.store(dec_out_FD + row + column, decoder.to(dec_out_FD.dtype.element_ty), mask=inside)
    bias = (tl.load(bias_F + feature) - tl.sum(along, axis=0)) * norm
    tl.store(bias_out_F + feature, bias.to(bias_out_F.dtype.element_ty))
    tl.store(norm_F + feature, norm)


@triton.jit
def chain(
    dW_enc_FD, dW_dec_FD, squares_F, dW_FD, dV_FD, W_dec_FD, b_dec_D, norm_F, dz_F, pull_F, D,
    SUBTRACTS: tl.constexpr, PULLS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of both rows of a feature from those in published units (see `step`), and their sum of squares."""
    feature = tl.program_id(0)
    row = feature.to(tl.int64) * D
    norm = tl.load(norm_F + feature)
    dz, pull = tl.load(dz_F + feature) * norm, 0.0
    if PULLS:
        pull = tl.load(pull_F + feature) / (norm * norm)
    squares = tl.full([BLOCK_D], 0, tl.float32)
    for left in range(0, D, BLOCK_D):
        column = left + tl.arange(0, BLOCK_D)
        inside = column < D
        decoder = tl.load(dV_FD + row + column, mask=inside, other=0.0).to(tl.float32) / norm
        if PULLS:
            decoder += pull * tl.load(W_dec_FD + row + column, mask=inside, other=0.0)
        encoder = tl.load(dW_FD + row + column, mask=inside, other=0.0).to(tl.float32) * norm
        if SUBTRACTS:
            encoder -= dz * tl.load(b_dec_D + column, mask=inside, other=0.0)
        tl.store(dW_dec_FD + row + column, decoder, mask=inside)
        tl.store(dW_enc_FD + row + column, encoder, mask=inside)
        squares += decoder * decoder + encoder * encoder
    tl.store(squares_F + feature, tl.sum(squares, axis=0))
