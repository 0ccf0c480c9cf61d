import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from resources.compute import Compute
from sae_pipeline import device as device_module
from sae_pipeline.device import Device, choose_device, halving
from sae_pipeline.errors import UserError


class AcceleratorCompute(Compute):
    """Claims a shared device without needing one."""

    def choose(self) -> Device:
        return Device("cuda:0", "a test", 10**9)


def _hold(folder: str, marker: str) -> None:
    with AcceleratorCompute(lock_folder=folder).lease(print):
        Path(marker).write_text("held", encoding="utf-8")
        time.sleep(60)


def test_auto_is_cpu_here_and_says_why(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    chosen = choose_device("auto")
    assert chosen.name == "cpu" and not chosen.is_shared and "no CUDA" in chosen.reason
    assert choose_device("cpu", memory_gb=0.5).memory_bytes == 500_000_000


@pytest.mark.parametrize(
    ("wanted", "words"), [("cuda:7", "is not on this machine"), ("tpu", "unknown device"), ("cpu:1", "unknown")]
)
def test_impossible_devices_are_user_errors(monkeypatch, wanted, words):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=words):
        choose_device(wanted)


def test_lease_is_exclusive_across_processes_and_freed_when_the_holder_is_killed(tmp_path):
    marker = tmp_path / "held"
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path), str(marker)))
    holder.start()
    assert holder.pid is not None
    try:
        while not marker.exists():
            assert holder.is_alive()
            time.sleep(0.02)
        lines: list[str] = []
        waiting = AcceleratorCompute(lock_folder=str(tmp_path), wait_seconds=0.2)
        with pytest.raises(UserError, match="still in use after"), waiting.lease(lines.append):
            pytest.fail("two processes held the device")
        assert any("in use by another process" in line for line in lines)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with AcceleratorCompute(lock_folder=str(tmp_path), wait_seconds=5).lease(lines.append) as device:
        assert device.name == "cuda:0"


def test_lease_is_released_when_the_work_fails(tmp_path):
    compute = AcceleratorCompute(lock_folder=str(tmp_path), wait_seconds=0)
    with pytest.raises(ValueError, match="work"), compute.lease(print):
        raise ValueError("work")
    with compute.lease(print):
        pass


def test_cpu_lease_never_waits():
    with Compute(device="cpu").lease(print) as first, Compute(device="cpu").lease(print) as second:
        assert first.name == second.name == "cpu"


def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch):
    import torch

    said: list[str] = []
    monkeypatch.setattr(device_module.progress, "say", said.append)
    tried = []

    def work(batch: int) -> str:
        tried.append(batch)
        if batch > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert halving(16, work) == "done"
    assert tried == [16, 8, 4, 2]
    assert said[-1] == "out of memory: going on with a batch of 2"
    with pytest.raises(UserError, match="even with a batch of 4"):
        halving(16, work, smallest=4)
