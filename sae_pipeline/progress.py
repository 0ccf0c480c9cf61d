"""One progress style: what, done/total, rate, time left. Silent when nobody watches.

Dagster redirects file descriptors 1 and 2 into its compute logs while a step runs, so a bar written to `sys.stderr` would
never reach the terminal. The command line therefore hands over a copy of its own terminal stream with `watch()` before the
run starts; without one, bars go to `sys.stderr` and only when that is a terminal.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_terminal: TextIO | None = None


@contextmanager
def watch(stream: TextIO) -> Iterator[None]:
    """Send progress bars to `stream` (a terminal) for the duration of the block."""
    global _terminal
    previous, _terminal = _terminal, stream
    try:
        yield
    finally:
        _terminal = previous


def bar(what: str, total: int | None, unit: str = "it", initial: int = 0) -> tqdm:
    """A bar to `update(n)` by hand. `unit` is plural and lower case (`tokens`, `blocks`, `features`)."""
    stream = _terminal or sys.stderr
    return tqdm(
        desc=what, total=total, unit=f" {unit}", initial=initial, file=stream, disable=not stream.isatty(),
        dynamic_ncols=True, leave=False, unit_scale=True, smoothing=0.1,
    )  # fmt: skip


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate with a bar."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # pyright: ignore[reportArgumentType]
    with bar(what, total, unit) as progress:
        for item in items:
            yield item
            progress.update(1)


def say(line: str) -> None:
    """One line on the watched terminal, above any bar. Without a watcher nothing is printed: Dagster's log has it."""
    if _terminal is not None:
        tqdm.write(line, file=_terminal)
        _terminal.flush()
