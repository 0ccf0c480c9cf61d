"""The device as an injected resource: chosen once with the reason logged, and leased so that one process at a time uses a GPU.

The lease is an flock: it holds across the web UI, the command line and tests, and the kernel drops it when its process dies.
It is taken around the GPU work of one asset, not for a whole run, which may also wait for a language-model judge.
"""

import getpass
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from filelock import FileLock

    from sae_pipeline.device import Device

T = TypeVar("T")


class Compute(dg.ConfigurableResource):
    """Device and memory for everything that runs a model or an SAE."""

    device: str = Field(default="auto", description="auto, cuda, cuda:N, mps or cpu")
    memory_gb: float | None = Field(default=None, description="memory that may be used; default 90 % of what is free")
    lock_folder: str = Field(default="", description="where the lease files lie; default: this user's temporary folder")
    wait_seconds: float = Field(default=-1, description="how long to wait for a busy GPU; -1: as long as it takes")

    def choose(self) -> "Device":
        """The device and why it was chosen. Raises `UserError` when this machine does not have it."""
        from sae_pipeline.device import choose_device

        return choose_device(self.device, self.memory_gb)

    def lock_path(self, device: str) -> Path:
        """The lease file of a device."""
        folder = Path(self.lock_folder or tempfile.gettempdir())
        return folder / f"sae_pipeline-{getpass.getuser()}-{device.replace(':', '-')}.lock"

    @contextmanager
    def lease(self, log: Callable[[str], None]) -> Iterator["Device"]:
        """The device for this block; an accelerator is held exclusively. Raises `UserError` after `wait_seconds`."""
        from filelock import FileLock

        from sae_pipeline.allocator import keep_freed_memory
        from sae_pipeline.device import use

        device = self.choose()
        use(device.name)  # activations that are computed when they are read are computed here, too
        log(f"computing on {device.name} ({device.reason}; up to {device.memory_bytes / 1e9:.1f} GB)")
        if not device.is_shared:
            keep_freed_memory()
            yield device
            return
        lock = FileLock(self.lock_path(device.name))
        self._acquire(lock, device.name, log)
        try:
            yield device
        finally:
            lock.release()

    def _acquire(self, lock: "FileLock", device: str, log: Callable[[str], None]) -> None:
        from filelock import Timeout

        from sae_pipeline.errors import UserError

        try:
            lock.acquire(timeout=0)
        except Timeout:
            log(f"{device} is in use by another process; waiting for {lock.lock_file}")
            try:
                lock.acquire(timeout=self.wait_seconds)
            except Timeout as error:
                raise UserError(
                    device, f"still in use after {self.wait_seconds:.0f} s", "Wait for the other run, or stop it."
                ) from error
