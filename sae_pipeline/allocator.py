"""Memory that torch frees on a CPU stays with the process.

By default glibc returns the end of the heap to the kernel as soon as more than twice the largest small array is free there, and
the kernel clears each page when it is asked for again. That was a sixth of all processor time of a harvest (37 s of system time,
then 9) and of a training (8.4 s, then 3.0). Only whole arrays of 32 MB and more, the most that glibc allows, still come and go.
"""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
SETTINGS = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 1 << 30, M_TOP_PAD: 64 << 20}


def keep_freed_memory() -> bool:
    """From now on up to 1 GiB of freed memory waits for the next allocation. False where the C library cannot (macOS, musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in SETTINGS.items())
