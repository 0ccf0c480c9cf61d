"""A full disk, whoever says so, is one sentence."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_pipeline.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)  # no space, no quota


@contextmanager
def disk_full_is_a_user_error(work: Path) -> Iterator[None]:
    """Inside the block, an error that means a full disk becomes a `UserError`; others pass."""
    try:
        yield
    except Exception as error:
        if not _says_disk_full(error):
            raise
        free_gb = shutil.disk_usage(work).free / 1e9
        raise UserError(
            str(work), f"the disk is full ({free_gb:.2f} GB free)", "Free some space and run again: finished parts are kept."
        ) from error


def _says_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    # safetensors, polars and DuckDB raise exceptions of their own that only quote the system's words.
    return any(os.strerror(number) in str(error) for number in FULL)
