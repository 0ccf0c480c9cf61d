"""SHA-256 of files and of plain values. A digest, never a name or an existence, decides whether something is current."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_seen: dict[tuple[str, int, int, int, int], str] = {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hex.

    Remembered within this process while inode, size, mtime and ctime stay the same: the kernel sets ctime on every write, so a
    changed byte is always read again.
    """
    stat = path.stat()
    key = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if key not in _seen:
        with path.open("rb") as file:
            _seen[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _seen[key]


def value_digest(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form, hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def files_digest(files: Mapping[str, str]) -> str:
    """One digest for a set of files: {relative name: SHA-256}."""
    return value_digest(dict(sorted(files.items())))
