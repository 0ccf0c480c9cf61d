"""A count that a GPU has now and the host learns some steps later, so that the host never waits for the step it has just queued.

Decisions that change what is queued (sparse or dense, how many dead features to make room for) are taken on such counts. The lag
is a fixed number of steps, not "as soon as it arrives": equal runs take equal decisions.
"""

from collections import deque

import torch
from torch import Tensor

LAG_STEPS = 3
UNKNOWN = -1


class Lagged:
    """`add` once a step; `value` is what was added `LAG_STEPS` additions ago, None before."""

    def __init__(self) -> None:
        self.value: int | None = None
        self._on_their_way: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def add(self, count: Tensor) -> None:
        """`count` is a 0-dim integer tensor. Its copy to the host is queued; a copy queued long ago is read."""
        host = torch.empty((), dtype=torch.int64, pin_memory=count.is_cuda)
        host.copy_(count, non_blocking=True)
        event = None
        if count.is_cuda:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(count.device))
        self._on_their_way.append((host, event))
        if len(self._on_their_way) > LAG_STEPS:
            self.value = _arrived(*self._on_their_way.popleft())

    def state(self) -> Tensor:
        """Value and what is on its way, for a checkpoint; waits for the device."""
        waiting = [_arrived(*one) for one in self._on_their_way]
        return torch.tensor([UNKNOWN if self.value is None else self.value, *waiting])

    def load_state(self, state: Tensor) -> None:
        """Inverse of `state`."""
        value, *waiting = state.tolist()
        self.value = None if value == UNKNOWN else value
        self._on_their_way = deque((torch.tensor(one), None) for one in waiting)


def _arrived(host: Tensor, event: torch.cuda.Event | None) -> int:
    if event is not None:
        event.synchronize()  # of a step that the device has long left behind: the queue behind it does not run dry
    return int(host)
