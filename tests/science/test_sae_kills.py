"""Trainings that are killed, stopped and resumed end with the bytes of an uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sae_pipeline.sae.history import read_history
from tests.science.trainings import SPARSITY, digests

# One process that imports once and forks a training per line of standard input (folder, architecture); prints the child's process
# id, then its exit status. It must not start the threads of any library itself: they do not survive a fork.
SERVER = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sae_pipeline.sae.build import build_sae
from tests.science.trainings import section, source
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # imports half of torch, once instead of in every child
for line in sys.stdin:
    folder, architecture = line.split()
    child = os.fork()
    if child == 0:
        settings = section(architecture)
        build_sae(source(architecture), settings, settings.sizes[0], Path(folder), {"hook": "planted"})
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


SECONDS_TO_SAVE = 20  # for a machine that is busy; a checkpoint of these trainings is small


class Server:
    """Trainings in processes of their own, and their exit statuses as `os.waitpid` gives them."""

    def __enter__(self) -> "Server":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def train(self, work: Path, architecture: str, send: signal.Signals | None = None, step: int = 0, delay: float = 0.0) -> int:
        """Exit status; `send` is sent `delay` seconds after the history shows `step`. A process that has not ended
        `SECONDS_TO_SAVE` later is killed, and its status shows it."""
        assert self._process.stdin and self._process.stdout
        work.mkdir(exist_ok=True)
        print(work, architecture, file=self._process.stdin, flush=True)
        child, deadline = int(self._process.stdout.readline()), time.monotonic() + 120
        while send and reported_step(work) < step:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        if not send:
            return int(self._process.stdout.readline())
        time.sleep(delay)
        os.kill(child, send)
        too_late = threading.Timer(SECONDS_TO_SAVE, os.kill, (child, signal.SIGKILL))
        too_late.start()
        try:
            return int(self._process.stdout.readline())
        finally:
            too_late.cancel()


def reported_step(work: Path) -> int:
    """The last step that the live history shows."""
    history = read_history(work)
    return history["step"][-1] if history.height else -1


def kept_step(work: Path) -> int:
    """Step of the checkpoint in the folder, 0 without one."""
    pointer = work / "checkpoint.json"
    return json.loads(pointer.read_text(encoding="utf-8"))["step"] if pointer.is_file() else 0


@pytest.mark.parametrize(
    ("architecture", "n_kills"),
    [("batch_topk", 5), ("ring", 2), *(pytest.param(name, 20, marks=pytest.mark.long) for name in SPARSITY)],
)
def test_killed_and_resumed_the_bytes_are_those_of_an_uninterrupted_run(tmp_path, architecture, n_kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    points = sorted(random.sample(range(5, 215), n_kills))  # anew each time: none may matter
    with Server() as server:
        assert server.train(whole, architecture) == 0
        for step in points:
            assert server.train(killed, architecture, signal.SIGKILL, step, 0.01 * random.random()) == signal.SIGKILL, points
            assert kept_step(killed) > step - 20 - 5  # at most one interval (and one rewrite of the history) is done again
        assert server.train(killed, architecture) == 0
    assert digests(killed) == digests(whole), points


def test_sigterm_saves_a_checkpoint_between_two_steps_within_seconds(tmp_path):
    """It must: what stops a process (a scheduler, an operating system) kills it soon after."""
    work = tmp_path / "stopped"
    with Server() as server:
        assert server.train(work, "batch_topk", signal.SIGTERM, 104) == signal.SIGTERM  # not SIGKILL: it ended by itself, in time
        step = kept_step(work)
        assert step > 104 and step % 20 != 0  # not one of the regular ones, at every 20th step
        assert read_history(work)["step"].to_list() == list(range(step))
        assert server.train(work, "batch_topk") == 0
        assert server.train(tmp_path / "whole", "batch_topk") == 0
    assert digests(work) == digests(tmp_path / "whole")
