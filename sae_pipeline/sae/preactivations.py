"""Pre-activations of a batch in tiles of tokens: never an array of size tokens x features beyond a fixed number of entries.

Shapes: N tokens of a batch, R tokens of a tile, F features, D width, P positions, A chosen features.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sae_pipeline.sae import gpu, kernels
from sae_pipeline.sae.parameters import Published

# 64 MiB in bfloat16. A batch that fits is one tile: then the product runs once and its result is kept for the whole step.
TILE_ENTRIES = 2**25
# On a GPU half of it, so that selections find the tile in its L2 cache, but never so few tokens that the product itself waits for
# the encoder's rows to be read again.
GPU_TILE_ENTRIES, GPU_TILE_TOKENS = 2**24, 512


class PreActivations:
    """z = x W_enc^T + b_enc in published units. The buffer is reused between steps: clearing fresh pages of this largest array
    would cost a fifth of the product itself."""

    def __init__(self, n_features: int, dtype: torch.dtype, device: torch.device) -> None:
        self.n_features, self.dtype = n_features, dtype
        self._tile_RF = torch.empty(0, n_features, dtype=dtype, device=device)
        self.zero = torch.zeros((), device=device)
        self._had_more = False

    def compute(self, x_low_ND: Tensor, weights: Published) -> "PreActivations":
        """Take a new batch; a batch of one tile is computed now, a larger one tile by tile whenever `tiles` is iterated."""
        self._x_low_ND, self._weights, self.n_tokens = x_low_ND, weights, len(x_low_ND)
        rows = min(self.n_tokens, self._tile_tokens())
        if len(self._tile_RF) != rows:
            self._tile_RF = torch.empty(rows, self.n_features, dtype=x_low_ND.dtype, device=x_low_ND.device)
        if rows == self.n_tokens:
            self._product(x_low_ND, self._tile_RF)
        return self

    @property
    def on_gpu(self) -> bool:
        """Whether it lies on a GPU (see `gpu`)."""
        return gpu.on_gpu(self._tile_RF)

    def _tile_tokens(self) -> int:
        if self.on_gpu:
            return max(GPU_TILE_TOKENS, GPU_TILE_ENTRIES // self.n_features)
        return max(1, TILE_ENTRIES // self.n_features)

    def _product(self, x_low_RD: Tensor, out_RF: Tensor) -> Tensor:
        return torch.addmm(self._weights.b_enc_F, x_low_RD, self._weights.W_enc_FD.T, out=out_RF)

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """(first token, z_RF) one after the other; a tile is overwritten by the next one."""
        rows = len(self._tile_RF)
        if rows == self.n_tokens:
            yield 0, self._tile_RF
            return
        for first in range(0, self.n_tokens, rows):
            part_RD = self._x_low_ND[first : first + rows]
            yield first, self._product(part_RD, self._tile_RF[: len(part_RD)])

    def first_rows(self, n_tokens: int) -> Tensor:
        """z of the first tokens, at most `n_tokens`; overwritten by the next tile."""
        if len(self._tile_RF) == self.n_tokens:
            return self._tile_RF[:n_tokens]
        part_RD = self._x_low_ND[: min(n_tokens, len(self._tile_RF))]
        return self._product(part_RD, self._tile_RF[: len(part_RD)])

    def above(self, threshold: float) -> tuple[Tensor, Tensor]:
        """(flat int64 positions, values) of the entries greater than `threshold` (>= 0), ascending by position."""
        found = []
        for first, z_RF in self.tiles():
            position_P = kernels.positions_above(z_RF, threshold)
            found.append((position_P + first * self.n_features if first else position_P, z_RF.reshape(-1)[position_P]))
        if len(found) == 1:
            return found[0]
        position, value = zip(*found, strict=True)
        return torch.cat(position), torch.cat(value)

    def positive(self, at_most: int) -> tuple[Tensor, Tensor] | None:
        """The entries greater than 0, as `above` gives them; None when they are more than `at_most`.

        After a batch that had more, they are counted before they are looked for, no further than it takes to know.
        """
        if self._had_more and self._has_more(at_most):
            return None
        found = self.above(0.0)
        self._had_more = len(found[0]) > at_most
        return None if self._had_more else found

    def _has_more(self, at_most: int) -> bool:
        n = 0
        for _, z_RF in self.tiles():
            for part_RF in z_RF.split(max(1, kernels.SCANNED_AT_ONCE // self.n_features)):
                n += kernels.n_positive(part_RF)
                if n > at_most:
                    return True
        return False

    def token_norms(self) -> Tensor:
        """Norms of the batch's tokens, N float32."""
        return self._x_low_ND.float().norm(dim=1)

    def columns(self, feature_A: Tensor, rows: slice) -> Tensor:
        """z of a few features on some tokens, R x A, a copy."""
        if len(self._tile_RF) == self.n_tokens:
            return self._tile_RF[rows, feature_A]
        W_AD, b_A = self._weights.W_enc_FD[feature_A], self._weights.b_enc_F[feature_A]
        return torch.addmm(b_A, self._x_low_ND[rows], W_AD.T)

    def whole(self) -> Tensor:
        """All of z, N x F, for the dense step. In one tile it is the buffer itself."""
        if len(self._tile_RF) == self.n_tokens:
            return self._tile_RF
        z_NF = torch.empty(self.n_tokens, self.n_features, dtype=self._tile_RF.dtype, device=self._tile_RF.device)
        return self._product(self._x_low_ND, z_NF)
