"""Throughput, memory and lost answers of the judge: `python -m bench.judge [calls] [latency s]`.

The loopback server runs in a process of its own, so that memory is the client's alone. One call after the other, then 16 at a
time under 5 % faults of five kinds. Writes `bench/results/judge.md`; the numbers depend on the machine, so nothing asserts them.
"""

import argparse
import multiprocessing
import platform
import random
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from sae_pipeline.judge.calls import read_calls
from sae_pipeline.judge.interactive import InteractiveJudge
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.ledger import Caps, Ledger
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.request import Settings
from sae_pipeline.judge.retry import Limits
from tests.fakes.messages_api import FakeMessagesApi, Fault, error
from tests.judge.conftest import HOSTED, MODEL, question

RESULT = Path(__file__).parent / "results" / "judge.md"
FAULT_SHARE = 0.05
FAULTS = (
    error(529), error(429, retry_after="0"), Fault(reset=True), Fault(200, "<html>", media_type="text/html"), Fault(half=True),
)  # fmt: skip
LIMITS = Limits(first_wait_seconds=0.05, max_wait_seconds=0.5, attempt_seconds=10)
CONCURRENCY = 16
N_SEQUENTIAL = 200


def serve(pipe: Connection, latency_s: float) -> None:
    """The server's process: sends its address and key, obeys 'faults', answers 'stop' with what it saw."""
    with FakeMessagesApi() as api:
        api.reset(delay=latency_s)
        api.keeps_log = False
        pipe.send((api.url, api.key))
        while (told := pipe.recv()) != "stop":
            chance = random.Random(0)
            api.script = [chance.choice(FAULTS) if chance.random() < FAULT_SHARE else None for _ in range(2 * told)]
            api.max_in_flight = 0
            pipe.send(None)
        pipe.send((api.max_in_flight, sum(api.billed.values()), max(api.billed.values())))


class Memory(threading.Thread):
    """Resident megabytes of this process by number of requests sent."""

    def __init__(self, judge: InteractiveJudge) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[int, float]] = []
        self._judge, self._stopped, self._process = judge, threading.Event(), psutil.Process()

    def run(self) -> None:
        while not self._stopped.wait(0.25):
            self.samples.append((self._judge.n_sent, self._process.memory_info().rss / 1e6))

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def at(self, n_sent: int) -> float:
        return next((megabytes for sent, megabytes in self.samples if sent >= n_sent), self.samples[-1][1])


def timed(url: str, key: str, folder: Path, n: int, concurrency: int) -> tuple[float, int, int, Memory]:
    """(calls per second, calls answered, requests sent, memory)."""
    with Ledger(folder, "bench", Caps(100.0)) as ledger:
        judge = InteractiveJudge(
            "anthropic", Settings(MODEL, HOSTED, url), price_of(MODEL), ledger, Key(key), concurrency, LIMITS
        )
        requests = [question(i) for i in range(n)]
        memory = Memory(judge)
        memory.start()
        start = time.perf_counter()
        replies = judge.ask(requests)
        seconds = time.perf_counter() - start
        memory.stop()
        return n / seconds, sum(reply.status == "ok" for reply in replies), judge.n_sent, memory


def main(n: int, latency_s: float) -> None:
    """Measure, print and write."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, latency_s), daemon=True)
    server.start()
    url, key = mine.recv()
    with tempfile.TemporaryDirectory() as folder:
        one, _, _, _ = timed(url, key, Path(folder) / "one", min(n, N_SEQUENTIAL), 1)
        mine.send(n)
        mine.recv()
        many, n_answered, n_sent, memory = timed(url, key, Path(folder) / "many", n, CONCURRENCY)
        calls = read_calls(Path(folder) / "many")
        again, _, n_again, _ = timed(url, key, Path(folder) / "many", n, CONCURRENCY)
    mine.send("stop")
    in_flight, _, _ = mine.recv()
    server.join()
    early, late = memory.at(n // 10), memory.samples[-1][1]
    rows = {
        "calls; latency of the server": f"{n:,}; {latency_s * 1000:.0f} ms",
        "one after the other": f"{one:.2f} calls/s",
        f"{CONCURRENCY} at a time, {FAULT_SHARE:.0%} faults": f"{many:.1f} calls/s = **{many / one:.1f} ×**",
        "most requests in flight (seen by the server)": f"{in_flight}",
        "answered": f"{n_answered:,} of {n:,} (**{n - n_answered} lost**), {n_sent:,} requests sent",
        "attempts that failed (in the ledger)": f"{calls.filter(status='error').height:,}",
        f"resident memory after {n // 10:,} calls and at the end": f"{early:.0f} MB, {late:.0f} MB "
        f"(**{1000 * (late - early) / (0.9 * n):+.2f} kB per call**: the list of replies)",
        "the same again, from the ledger": f"{again:.0f} calls/s, {n_again} requests sent",
    }
    text = (
        f"# The judge against the loopback server\n\n`python -m bench.judge {n} {latency_s:g}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{psutil.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, anthropic "
        f"{version('anthropic')}. Client and server share the cores.\n"
        "Faults: 529, 429, connection reset, HTML under 200, half a body.\n\n| | |\n|---|---|\n"
        + "".join(f"| {what} | {value} |\n" for what, value in rows.items())
    )
    print(text)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="?", type=int, default=10_000)
    parser.add_argument("latency_s", nargs="?", type=float, default=0.1)
    given = parser.parse_args()
    main(given.calls, given.latency_s)
