"""SIGTERM and SIGINT wait until the training loop has saved a checkpoint between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType


class Deferred:
    """Which signal arrived, None as long as none did."""

    number: int | None = None


@contextmanager
def deferred_signals() -> Iterator[Deferred]:
    """Inside the block the first SIGTERM or SIGINT is only noted; the block should save and end. Then it takes its usual effect,
    and `KeyboardInterrupt` is raised should that return. A second signal has its usual effect at once.

    Outside the main thread Python delivers no signals: the block runs as it is.
    """
    noted = Deferred()
    if current_thread() is not main_thread():
        yield noted
        return
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
    if noted.number is not None:
        signal.raise_signal(noted.number)
        raise KeyboardInterrupt
