"""Triton kernels that gather rows and sum them: the sparse decoder, its gradients by pair and by feature.

Each program owns what it writes and adds in a fixed order: no atomics, so equal inputs give equal bits. Sums are float32 whatever
the dtype of the rows. A pair of value 0 is no pair (see `kernels.Pairs`): its row is not even read.

Imported on first use on a GPU only (`gpu.py`). Shapes: D width, P pairs, R rows; a block holds BLOCK_P pairs of BLOCK_D columns.
"""

import triton  # pyright: ignore[reportMissingImports]  (it has no wheels for macOS and Windows)
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def sum_rows(out_RD, table, index_P, weight_P, offsets, D, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr):
    """out[r] = sum over offsets[r] <= p < offsets[r + 1] of weight[p] table[index[p]]. Grid: rows x blocks of columns.

    Programs of one block of columns run side by side: that slice of the table stays in the L2 cache while all rows use it.
    """
    row, column = tl.program_id(0), tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    inside = column < D
    total = tl.full([BLOCK_D], 0, tl.float32)
    for start in range(first, last, BLOCK_P):
        pair = start + tl.arange(0, BLOCK_P)
        weight = tl.load(weight_P + pair, mask=pair < last, other=0.0).to(tl.float32)
        index = tl.load(index_P + pair, mask=pair < last, other=0).to(tl.int64)
        read = (weight != 0)[:, None] & inside[None, :]
        rows = tl.load(table + index[:, None] * D + column[None, :], mask=read, other=0.0).to(tl.float32)
        total += tl.sum(weight[:, None] * rows, axis=0)
    tl.store(out_RD + row.to(tl.int64) * D + column, total, mask=inside)


@triton.jit
def pair_products(
    out_P, g_ND, table, feature_P, value_P, offsets_N1, D, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """out[p] = g[token of p] . table[feature[p]]. Grid: tokens; the token's row of g is read from the nearest cache."""
    token = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets_N1 + token), tl.load(offsets_N1 + token + 1)
    for start in range(first, last, BLOCK_P):
        pair = start + tl.arange(0, BLOCK_P)
        value = tl.load(value_P + pair, mask=pair < last, other=0.0).to(tl.float32)
        feature = tl.load(feature_P + pair, mask=pair < last, other=0).to(tl.int64)
        total = tl.full([BLOCK_P], 0, tl.float32)
        for left in range(0, D, BLOCK_D):
            column = left + tl.arange(0, BLOCK_D)
            inside = column < D
            g = tl.load(g_ND + token * D + column, mask=inside, other=0.0).to(tl.float32)
            read = (value != 0)[:, None] & inside[None, :]
            rows = tl.load(table + feature[:, None] * D + column[None, :], mask=read, other=0.0).to(tl.float32)
            total += tl.sum(rows * g[None, :], axis=1)
        tl.store(out_P + pair, total, mask=pair < last)


@triton.jit
def sum_segments(out_R, value_P, offsets, BLOCK_P: tl.constexpr):
    """out[r] = sum over offsets[r] <= p < offsets[r + 1] of value[p]. Grid: rows."""
    row = tl.program_id(0)
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    total = tl.full([BLOCK_P], 0, tl.float32)
    for start in range(first, last, BLOCK_P):
        pair = start + tl.arange(0, BLOCK_P)
        total += tl.load(value_P + pair, mask=pair < last, other=0.0).to(tl.float32)
    tl.store(out_R + row, tl.sum(total, axis=0))
