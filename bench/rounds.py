"""Interleaved rounds between pinned processes: every contender in turn, round after round, so that what else the machine does
falls on all of them alike. Ratios are taken within a round."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from bench.setting import Spec, data_file

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".bench"
STEP_SECONDS = 0.5  # per contender and round, at least one step
WARM_UP = {"cpu": 1, "cuda": 10}  # steps before the one, or the as many, by which the number of steps is chosen


@dataclass
class Worker:
    """One contender's process and what it said."""

    spec: Spec
    data: Path
    python: str
    cpus: str
    seconds_per_token: list[float] = field(default_factory=list)
    wall_seconds_per_token: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0
    peak_device_bytes: int | None = None

    def __enter__(self) -> "Worker":
        environment = os.environ | {
            "OMP_NUM_THREADS": str(self.spec.threads), "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "POLARS_MAX_THREADS": str(self.spec.threads),
            "TMPDIR": str(self.data.parent),  # goes when the run is over
        }  # fmt: skip
        # Not a pipe: one that nobody empties stops the process when it is full.
        self._complaints: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        command = [self.python, "-m", "bench.worker", json.dumps(self.spec.as_dict()), str(self.data), self.cpus]
        self.process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._complaints.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self._complaints.seek(0)
            raise RuntimeError(f"{self.spec.label} died:\n{self._complaints.read()[-3000:]}")
        return json.loads(line)

    @cached_property
    def ready(self) -> dict[str, Any]:
        """What it said when it had loaded everything; waits until then."""
        return self._read()

    def ask(self, what: object) -> dict[str, Any]:
        """Steps to run, or `mse`."""
        assert self.process.stdin
        print(what, file=self.process.stdin, flush=True)
        return self._read()

    def run(self, n_steps: int, record: bool = True) -> float:
        """Seconds per step."""
        took = self.ask(n_steps)
        seconds = took["cpu_s"] if self.spec.device == "cpu" and self.spec.threads == 1 else took["wall_s"]
        self.peak_rss_bytes, self.peak_device_bytes = took["peak_rss_bytes"], took.get("peak_device_bytes")
        if record:
            n_tokens = n_steps * self.spec.shape.batch
            self.seconds_per_token.append(seconds / n_tokens)
            self.wall_seconds_per_token.append(took["wall_s"] / n_tokens)
        return seconds / n_steps


def compare(
    specs: list[Spec], n_rounds: int, scratch: Path, cpus: str = "0", parity_steps: int = 0, n_steps: int = 0
) -> dict[str, Any]:
    """Run all of `specs` (equal shapes) in interleaved rounds; a JSON-able record of every time.

    `n_steps` a round; by default as many as take half a second.
    `parity_steps`: everyone trains exactly so many steps in all, without a warm-up, and squared errors are recorded every round.
    """
    data = data_file(scratch, specs[0].shape)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(spec, data, python_for(spec), cpus)) for spec in specs]
        for worker in workers:  # they load side by side
            assert worker.ready
        steps = {worker.spec.label: n_steps or parity_steps // n_rounds for worker in workers}
        for worker in () if parity_steps else workers:
            warm_up = WARM_UP[worker.spec.device]
            seconds = [worker.run(warm_up, record=False) for _ in range(2)][-1]
            steps[worker.spec.label] = n_steps or max(1, round(STEP_SECONDS / max(1e-4, seconds)))
        errors: dict[str, list[float]] = {worker.spec.label: [] for worker in workers}
        for _ in range(n_rounds):
            for worker in workers:
                worker.run(steps[worker.spec.label])
                if parity_steps and (error := worker.ask("mse")["mse"]) is not None:
                    errors[worker.spec.label].append(error)
        return {
            "shape": specs[0].as_dict()["shape"],
            "architecture": specs[0].architecture,
            "target_l0": specs[0].target_l0,
            "device": specs[0].device,
            "threads": specs[0].threads,
            "clock": "processor time" if specs[0].device == "cpu" and specs[0].threads == 1 else "wall time",
            "contenders": {
                worker.spec.label: {
                    "spec": worker.spec.as_dict(),
                    "us_per_token": [round(1e6 * seconds, 3) for seconds in worker.seconds_per_token],
                    "wall_us_per_token": [round(1e6 * seconds, 3) for seconds in worker.wall_seconds_per_token],
                    "steps_per_round": steps[worker.spec.label],
                    "peak_rss_bytes": worker.peak_rss_bytes,
                    **({"peak_device_bytes": worker.peak_device_bytes} if worker.peak_device_bytes else {}),
                    "mse_before": worker.ready["mse"],
                    "mse_by_round": errors[worker.spec.label],
                    "torch": worker.ready["torch"],
                    "keeps_freed_memory": worker.ready["keeps_freed_memory"],
                    "config": worker.ready["config"],
                }
                for worker in workers
            },
        }


def python_for(spec: Spec) -> str:
    """The interpreter of the peers' environment, where there is one: all contenders then share one PyTorch."""
    peers = ENVIRONMENTS / spec.environment / "bin" / "python"
    return str(peers) if peers.is_file() else sys.executable


def ratios(record: dict[str, Any], slower: str, faster: str) -> list[float]:
    """slower / faster, round by round."""
    one, other = (record["contenders"][label]["us_per_token"] for label in (slower, faster))
    return [a / b for a, b in zip(one, other, strict=True)]


def summary(values: Iterable[float]) -> str:
    """median (min to max)."""
    values = list(values)
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def short_commit(commit: str) -> str:
    """As much of it as names it, and whether the files differed; what is none is returned as it is."""
    return commit[:12] + "-dirty" * commit.endswith("-dirty") if " " not in commit else commit
