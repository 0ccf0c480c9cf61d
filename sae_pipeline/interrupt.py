"""SIGTERM and SIGINT wait until the training loop has saved a checkpoint between two steps.

A step may wait for a batch, and a batch for a language model: whatever takes seconds inside the block calls `stop_if_asked`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType


class Deferred:
    """Which signal arrived, None as long as none did."""

    number: int | None = None


class StoppedError(Exception):
    """Work inside `deferred_signals` was broken off because a signal has arrived."""


_current: Deferred | None = None


def stop_if_asked() -> None:
    """Raise `StoppedError` inside `deferred_signals` once a signal has arrived; elsewhere do nothing."""
    if _current is not None and _current.number is not None:
        raise StoppedError


@contextmanager
def deferred_signals() -> Iterator[Deferred]:
    """Inside the block the first SIGTERM or SIGINT is only noted; the block should save and end. Then it takes its usual effect,
    and `KeyboardInterrupt` is raised should that return. A second signal has its usual effect at once.

    Outside the main thread Python delivers no signals: the block runs as it is.
    """
    global _current
    noted = Deferred()
    if current_thread() is not main_thread():
        yield noted
        return
    _current = noted
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        noted.number = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
        _current = None
    if noted.number is not None:
        signal.raise_signal(noted.number)
        raise KeyboardInterrupt
