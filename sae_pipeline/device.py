"""Which device computes, why, and what to do when its memory runs out.

torch is imported inside functions only: the command line starts fast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sae_pipeline import progress
from sae_pipeline.errors import UserError

T = TypeVar("T")
_in_use: str | None = None


@dataclass(frozen=True)
class Device:
    """A chosen device, as torch names it, with the reason for the choice and the memory that may be used."""

    name: str
    reason: str
    memory_bytes: int

    @property
    def is_shared(self) -> bool:
        """Whether processes must take turns on it (an accelerator)."""
        return self.name != "cpu"


def choose_device(wanted: str = "auto", memory_gb: float | None = None) -> Device:
    """Resolve `auto`, `cuda`, `cuda:N`, `mps` or `cpu`. `memory_gb` caps what may be used; default 90 % of what is free.

    Raises `UserError` for a device that this machine does not have.
    """
    import torch

    if wanted == "auto":
        name, reason = _best(torch)
    else:
        name, reason = wanted, "asked for"
    kind, _, index = name.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not (index or "0").isdigit() or int(index or 0) >= count:
            raise UserError("compute.device", f"{name!r} is not on this machine ({count} CUDA devices)", "Use auto or cpu.")
        name = f"cuda:{index or 0}"
        free, _ = torch.cuda.mem_get_info(int(index or 0))
    elif kind in ("cpu", "mps") and not index:
        import psutil

        if kind == "mps" and not torch.backends.mps.is_available():
            raise UserError("compute.device", "'mps' is not on this machine", "Use auto or cpu.")
        free = psutil.virtual_memory().available
    else:
        raise UserError("compute.device", f"unknown device {wanted!r}", "Use auto, cuda, cuda:N, mps or cpu.")
    budget = 0.9 * free if memory_gb is None else min(memory_gb * 1e9, free)
    return Device(name, reason, int(budget))


def use(device: str) -> None:
    """From now on this process computes on `device`, whoever asks `device_in_use`."""
    global _in_use
    _in_use = device


def device_in_use() -> str:
    """The device that was chosen for this process; `auto` where nobody has chosen."""
    return _in_use or choose_device().name


def _best(torch) -> tuple[str, str]:
    if torch.cuda.is_available():
        index = torch.cuda.current_device()
        major, minor = torch.cuda.get_device_capability(index)
        return f"cuda:{index}", f"auto: {torch.cuda.get_device_name(index)}, SM {major}.{minor}"
    if torch.backends.mps.is_available():
        return "mps", "auto: Apple GPU, no CUDA device"
    return "cpu", f"auto: no CUDA or Apple GPU, {torch.get_num_threads()} threads"


def halving(batch: int, work: Callable[[int], T], smallest: int = 1) -> T:
    """`work(batch)`; when the device runs out of memory, again with half the batch, said so, down to `smallest`.

    `work` must start over cleanly: it is called again from its beginning. Raises `UserError` when `smallest` does not fit.
    """
    import torch

    while True:
        try:
            return work(batch)
        except torch.OutOfMemoryError as error:
            if batch // 2 < smallest:
                raise UserError(
                    "memory", f"out of memory even with a batch of {batch}", "Free memory, or use a smaller model or context."
                ) from error
        # Outside the except block: the traceback no longer holds the tensors of the failed attempt.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch //= 2
        progress.say(f"out of memory: going on with a batch of {batch}")
