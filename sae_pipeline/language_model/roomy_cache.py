"""A key-value cache that has room for the tokens to come.

The library's own cache copies all keys and values of all layers for every new token: 2 to 17 % of the processor time of a batch
of 256 short texts, by how fresh the process's memory is (SmolLM's shape, 44 tokens read, 48 written, one core). The numbers are
the same, so are the texts.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer's cache that takes `n_more` tokens in place. Keys and values are B x heads x tokens x width, as the library's."""

    def __init__(self, filled: DynamicLayer, n_more: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = filled.dtype, filled.device, True
        self._room = tuple(_with_room(states, n_more) for states in (filled.keys, filled.values) if states is not None)
        self.keys, self.values = filled.keys, filled.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """See `DynamicLayer.update`. Raises `IndexError` beyond the room."""
        first, last = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if last > self._room[0].shape[-2]:
            raise IndexError(f"room for {self._room[0].shape[-2]} tokens, {last} came")
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., first:last, :] = states
        self.keys, self.values = (room[..., :last, :] for room in self._room)
        return self.keys, self.values


def _with_room(states: Tensor, n_more: int) -> Tensor:
    *outer, n_tokens, width = states.shape
    room = torch.empty(*outer, n_tokens + n_more, width, dtype=states.dtype, device=states.device)
    room[..., :n_tokens, :] = states
    return room


def make_room(cache: Any, n_more: int) -> None:
    """Give every plain layer of a filled cache room for `n_more` tokens. Windows and other states stay the library's."""
    layers = getattr(cache, "layers", [])
    for at, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[at] = RoomyLayer(layer, n_more)
