"""Where training activations come from, and in which order.

Shapes: N tokens of a batch, D width.
"""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader


class ActivationSource(Protocol):
    """Scaled training activations by position 0 .. n_tokens - 1."""

    n_tokens: int
    d_model: int

    def batch(self, position_N: Tensor) -> Tensor:
        """x_ND = scale (r - mean), float32, on the CPU."""
        ...


class CachedActivations:
    """The unmasked training tokens of an activations folder."""

    def __init__(self, reader: "ActivationReader") -> None:
        self._reader = reader
        self._token_index = reader.token_index("train")
        self.n_tokens = len(self._token_index)
        self.d_model = reader.d_model

    def batch(self, position_N: Tensor) -> Tensor:
        """See `ActivationSource.batch`."""
        return self._reader.scaled(self._reader.gather(self._token_index[position_N]))


class ShuffledOrder:
    """An endless stream of batches of positions: one random permutation after another, cut into equal pieces.

    A piece may cross from one epoch into the next, so every batch is full. The state is small: the generator as it was before
    the current permutation, and a cursor.
    """

    def __init__(self, n_tokens: int, batch: int, generator: torch.Generator) -> None:
        self.n_tokens, self.batch, self._generator = n_tokens, batch, generator
        self._shuffle()

    def _shuffle(self) -> None:
        self._before = self._generator.get_state()
        self._permutation = torch.randperm(self.n_tokens, generator=self._generator)
        self._cursor = 0

    def next(self) -> Tensor:
        """Positions of the next batch, int64."""
        pieces, wanted = [], self.batch
        while wanted:
            if self._cursor == self.n_tokens:
                self._shuffle()
            piece = self._permutation[self._cursor : self._cursor + wanted]
            self._cursor += len(piece)
            wanted -= len(piece)
            pieces.append(piece)
        return torch.cat(pieces)

    def state(self) -> tuple[Tensor, int]:
        """(generator state before the current permutation, cursor in it)."""
        return self._before, self._cursor

    def load_state(self, before: Tensor, cursor: int) -> None:
        """Inverse of `state`."""
        self._generator.set_state(before)
        self._shuffle()
        self._cursor = cursor
