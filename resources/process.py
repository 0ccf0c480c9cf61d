"""Which process executes a run: a tag by which a run whose process died can be told from one that still works."""

import os
import socket

import psutil

PROCESS_TAG = "sae_pipeline/process"


def process_tag() -> dict[str, str]:
    """The tag of a run that this process executes: host:pid:start time (a pid alone may be given to another process later)."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"}


def is_gone(tag: str) -> bool:
    """Whether the tag names a process of this host that no longer runs."""
    host, _, process = tag.partition(":")
    if host != socket.gethostname():
        return False
    pid, _, started = process.partition(":")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" != started
    except psutil.NoSuchProcess:
        return True
