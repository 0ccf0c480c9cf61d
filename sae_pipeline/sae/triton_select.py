"""Triton kernels that choose entries of a tile of pre-activations and write them down in order, token by token.

A program reads one token's row, from the L2 cache where the encoder's product has just left it. Positive floating-point numbers
order like their bits, so the k-th largest is found bit by bit from the top by counting, exactly and without sorting. No atomics.

Imported on first use on a GPU only (`gpu.py`). Shapes: R tokens of the tile, F features, K chosen of each token, P places.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def count_above(count_R, z_RF, threshold, n_features, BLOCK: tl.constexpr):
    """How many entries of each row exceed `threshold` (a number on the device, >= 0). Grid: rows."""
    row = tl.program_id(0).to(tl.int64)
    least = tl.load(threshold)
    count = tl.full([BLOCK], 0, tl.int32)
    for start in range(0, n_features, BLOCK):
        feature = start + tl.arange(0, BLOCK)
        z = tl.load(z_RF + row * n_features + feature, mask=feature < n_features, other=0.0).to(tl.float32)
        count += (z > least).to(tl.int32)
    tl.store(count_R + row, tl.sum(count, axis=0))


@triton.jit
def write_above(
    token_P, feature_P, value_P, z_RF, threshold, offsets_R, first_token, n_features, n_places, BLOCK: tl.constexpr
):  # fmt: skip
    """The entries above `threshold` as pairs from place `offsets[row]` on, features ascending; none beyond `n_places`."""
    row = tl.program_id(0).to(tl.int64)
    least, place = tl.load(threshold), tl.load(offsets_R + row)
    for start in range(0, n_features, BLOCK):
        feature = start + tl.arange(0, BLOCK)
        z = tl.load(z_RF + row * n_features + feature, mask=feature < n_features, other=0.0)
        above = (z.to(tl.float32) > least).to(tl.int32)
        to = place + tl.cumsum(above, axis=0) - 1
        write = (above != 0) & (to < n_places)
        tl.store(token_P + to, (first_token + row).to(tl.int32), mask=write)
        tl.store(feature_P + to, feature, mask=write)
        tl.store(value_P + to, z, mask=write)
        place += tl.sum(above, axis=0)


@triton.jit
def largest_of_rows(
    feature_RK, value_RK, z_RF, guess_R, found_value, found_feature, n_features, k,
    CAPACITY: tl.constexpr, BLOCK: tl.constexpr, IS_BF16: tl.constexpr,
):  # fmt: skip
    """The k largest positive entries of each row, features ascending; of equal ones the first. Places left over keep their zeros.

    One scan sets aside what exceeds the row's guess (`found_*`, CAPACITY a row). When that holds at least k entries it is ranked
    instead of the row; else the row is. The result does not depend on the guess. Grid: rows.
    """
    row = tl.program_id(0).to(tl.int64)
    z_F, own_value, own_feature = z_RF + row * n_features, found_value + row * CAPACITY, found_feature + row * CAPACITY
    guess = tl.load(guess_R + row)
    bits: tl.constexpr = tl.int16 if IS_BF16 else tl.int32  # pyright: ignore[reportAssignmentType]
    n_found = 0
    for start in range(0, n_features, BLOCK):
        feature = start + tl.arange(0, BLOCK)
        z = tl.load(z_F + feature, mask=feature < n_features, other=0.0)
        above = (z.to(tl.float32) > guess).to(tl.int32)
        to = n_found + tl.cumsum(above, axis=0) - 1
        write = (above != 0) & (to < CAPACITY)
        tl.store(own_value + to, z, mask=write)
        tl.store(own_feature + to, feature, mask=write)
        n_found += tl.sum(above, axis=0)
    tl.debug_barrier()  # what other threads of this program set aside is read from here on

    enough = (n_found >= k) & (n_found <= CAPACITY)
    length = n_features
    ranked = z_F
    if enough:
        length = n_found
        ranked = own_value

    # The k-th largest as bits: the greatest number that at least k entries reach; 0 when fewer than k are positive.
    kth = 0
    for step in range(15 if IS_BF16 else 31):
        trial = kth | (1 << ((14 if IS_BF16 else 30) - step))
        reached = tl.full([BLOCK], 0, tl.int32)
        for start in range(0, length, BLOCK):
            place = start + tl.arange(0, BLOCK)
            z = tl.load(ranked + place, mask=place < length, other=0.0)
            reached += (z.to(bits, bitcast=True).to(tl.int32) >= trial).to(tl.int32)
        kth = tl.where(tl.sum(reached, axis=0) >= k, trial, kth)
    greater = tl.full([BLOCK], 0, tl.int32)
    for start in range(0, length, BLOCK):
        place = start + tl.arange(0, BLOCK)
        z = tl.load(ranked + place, mask=place < length, other=0.0)
        greater += (z.to(bits, bitcast=True).to(tl.int32) > kth).to(tl.int32)
    n_equal_taken = tl.where(kth > 0, k - tl.sum(greater, axis=0), 0)

    n_taken = 0
    n_equal = 0
    for start in range(0, length, BLOCK):
        place = start + tl.arange(0, BLOCK)
        z = tl.load(ranked + place, mask=place < length, other=0.0)
        key = z.to(bits, bitcast=True).to(tl.int32)
        equal = (key == kth).to(tl.int32)
        rank = n_equal + tl.cumsum(equal, axis=0) - 1
        take = ((key > kth) | ((equal != 0) & (rank < n_equal_taken))).to(tl.int32)
        feature = place
        if enough:
            feature = tl.load(own_feature + place, mask=place < length, other=0)
        to = row * k + n_taken + tl.cumsum(take, axis=0) - 1
        tl.store(feature_RK + to, feature, mask=take != 0)
        tl.store(value_RK + to, z, mask=take != 0)
        n_equal += tl.sum(equal, axis=0)
        n_taken += tl.sum(take, axis=0)
