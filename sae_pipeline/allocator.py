"""Memory that torch frees on a CPU stays with the process.

By default glibc returns the end of the heap to the kernel as soon as more than twice the largest small array is free there, takes
arrays of 32 MB and more from the kernel and hands them back one by one, and the kernel clears each page when it is asked for
again. That was a sixth of all processor time of a harvest (37 s of system time, then 9) and of a training (8.4 s, then 3.0); of a
TopK step at D 768, F 24,576 the large arrays alone were 82 of 706 ms (37,000 page faults, then none; peak memory 1.4 GB, then up
to 1.5).
"""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
# Setting M_MMAP_MAX also ends glibc's habit of moving the other limits by itself.
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 1 << 30, M_TOP_PAD: 64 << 20}


def keep_freed_memory() -> bool:
    """From now on up to 1 GiB of freed memory waits for the next allocation. False where the C library cannot (macOS, musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in SETTINGS.items())
