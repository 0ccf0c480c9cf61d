"""Where training batches come from, and in which order.

Two streams of unmasked training tokens: `PermutedStream` draws from a random permutation of all of them (activations are stored),
`RingStream` mixes a sequential stream in a ring of bounded size (activations are computed as they are needed).

Shapes: N tokens of a batch, M slots of the ring, D width.
"""

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from sae_pipeline.errors import UserError
from sae_pipeline.interrupt import StoppedError, stop_if_asked

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader


class BatchStream(Protocol):
    """An endless stream of batches. Its order depends on its seed alone, so several SAEs can share it."""

    n_tokens: int
    d_model: int
    batch: int
    """Tokens of a batch."""
    batches_done: int
    token_index_N: Tensor
    """Which tokens the last batch was."""

    def next(self) -> Tensor:
        """x_ND = scale (r - mean), float32, on the CPU. When `StoppedError` passes through, `state` is that before the call."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON-able values) that `load_state` takes."""
        ...

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on where another stream of the same settings stood."""
        ...


class Shuffle:
    """An endless stream of positions 0 .. n - 1: one random permutation after another, cut into pieces.

    The state is small: the generator as it was before the current permutation, and a cursor.
    """

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self._generator = n, generator
        self._shuffle()

    def _shuffle(self) -> None:
        self._before = self._generator.get_state()
        self._permutation = torch.randperm(self.n, generator=self._generator)
        self._cursor = 0

    def next(self, wanted: int) -> Tensor:
        """The next positions, int64. A piece may cross from one permutation into the next, so it is always full."""
        pieces = []
        while wanted:
            if self._cursor == self.n:
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


class PermutedStream:
    """Every token once per epoch, in an order drawn anew for each."""

    def __init__(self, reader: "ActivationReader", batch: int, seed: int) -> None:
        self._reader, self.batch = reader, batch
        self._token_index = reader.token_index("train")
        self.n_tokens, self.d_model, self.batches_done = len(self._token_index), reader.d_model, 0
        self._order = Shuffle(self.n_tokens, torch.Generator().manual_seed(seed))

    def next(self) -> Tensor:
        """See `BatchStream`."""
        self.token_index_N = self._token_index[self._order.next(self.batch)]
        self.batches_done += 1
        return self._reader.scaled(self._reader.gather(self.token_index_N))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `BatchStream`."""
        generator, cursor = self._order.state()
        return {"order_generator": generator}, {"cursor": cursor, "batches_done": self.batches_done}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """See `BatchStream`."""
        self._order.load_state(tensors["order_generator"].clone(), values["cursor"])
        self.batches_done = values["batches_done"]


class RingStream:
    """Shards in random order through a ring of `slots` rows: a batch takes random slots and exactly these are filled again.

    Serving costs one gather and refilling one scatter, whatever the ring's size. Slots are taken in random permutations, so a row
    waits at most two rounds of the ring. `epochs` of the stream serve every token that often, but for the rows that are in the
    ring at the end. A checkpoint holds which token is in which slot; the rows are read, or computed, again.
    """

    def __init__(self, reader: "ActivationReader", batch: int, slots: int, seed: int) -> None:
        self._reader, self.batch = reader, batch
        index = reader.token_index("train")
        self.n_tokens, self.d_model, self.batches_done = len(index), reader.d_model, 0
        self._by_shard = [part for part in reader.by_shard(index) if len(part)]
        slots = min(slots, self.n_tokens)
        if slots < batch:
            raise UserError(
                "sae.ring", f"{slots} slots do not hold a batch of {batch} tokens", "Raise sae.ring or lower sae.batch."
            )
        self._shards = Shuffle(len(self._by_shard), torch.Generator().manual_seed(seed))
        self._slots = Shuffle(slots, torch.Generator().manual_seed(seed + 1))
        self._ring_M = torch.empty(0, dtype=torch.int64)
        self._rows_MD: Tensor | None = None

    def next(self) -> Tensor:
        """See `BatchStream`."""
        if self._rows_MD is None:
            self._shard, self._offset = int(self._shards.next(1)), 0
            self._load()
            index_M, rows_MD = self._incoming(self._slots.n)
            self._ring_M, self._rows_MD = index_M.clone(), rows_MD.clone()
        before = self.state()
        slot_N = self._slots.next(self.batch)
        self.token_index_N, r_ND = self._ring_M[slot_N], self._rows_MD.index_select(0, slot_N)
        try:
            index_N, rows_ND = self._incoming(self.batch)
        except StoppedError:
            self._rewind(*before)  # to be saved; before it serves another batch, rows must be loaded again
            raise
        self._ring_M[slot_N] = index_N
        self._rows_MD.index_copy_(0, slot_N, rows_ND)
        self.batches_done += 1
        return self._reader.scaled(r_ND)

    def _load(self) -> None:
        stop_if_asked()
        self._shard_rows_ND = self._reader.gather(self._by_shard[self._shard])

    def _incoming(self, wanted: int) -> tuple[Tensor, Tensor]:
        """(token indices, rows) of the next tokens of the stream; views where they lie together."""
        indices, rows = [], []
        while wanted:
            index = self._by_shard[self._shard]
            if self._offset == len(index):
                self._shard, self._offset = int(self._shards.next(1)), 0
                self._load()
                continue
            piece = slice(self._offset, self._offset + wanted)
            indices.append(index[piece])
            rows.append(self._shard_rows_ND[piece])
            self._offset += len(indices[-1])
            wanted -= len(indices[-1])
        return (indices[0], rows[0]) if len(rows) == 1 else (torch.cat(indices), torch.cat(rows))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `BatchStream`."""
        (shard_generator, shard_cursor), (slot_generator, slot_cursor) = self._shards.state(), self._slots.state()
        tensors = {"ring": self._ring_M, "shard_generator": shard_generator, "slot_generator": slot_generator}
        cursors = {"shard_cursor": shard_cursor, "slot_cursor": slot_cursor, "shard": self._shard, "offset": self._offset}
        return tensors, cursors | {"batches_done": self.batches_done}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """See `BatchStream`."""
        self._rewind(tensors, values)
        self._rows_MD = self._reader.gather(self._ring_M)
        self._load()

    def _rewind(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._shards.load_state(tensors["shard_generator"].clone(), values["shard_cursor"])
        self._slots.load_state(tensors["slot_generator"].clone(), values["slot_cursor"])
        self._shard, self._offset, self.batches_done = values["shard"], values["offset"], values["batches_done"]
        self._ring_M = tensors["ring"].clone()
