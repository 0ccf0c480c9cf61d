"""Throughput of the judge against the loopback server: `python -m bench.judge [calls] [latency s]`.

Prints calls per second one after the other and at concurrency 16, peak memory, and what became of every call under 5 % faults.
"""

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from sae_pipeline.judge.interactive import InteractiveJudge
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.ledger import Caps, Ledger
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.request import Settings
from sae_pipeline.judge.retry import Limits
from tests.fakes.messages_api import FakeMessagesApi, Fault, error
from tests.judge.conftest import HOSTED, MODEL, question

FAULT_SHARE = 0.05
LIMITS = Limits(first_wait_seconds=0.05, max_wait_seconds=0.5, attempt_seconds=10)


def timed(api: FakeMessagesApi, folder: Path, n: int, concurrency: int) -> tuple[float, int]:
    """(calls per second, calls that were answered)."""
    with Ledger(folder, "bench", Caps(100.0)) as ledger:
        settings = Settings(MODEL, HOSTED, api.url)
        judge = InteractiveJudge("anthropic", settings, price_of(MODEL), ledger, Key(api.key), concurrency, LIMITS)
        start = time.perf_counter()
        replies = judge.ask([question(i) for i in range(n)])
        return n / (time.perf_counter() - start), sum(reply.status == "ok" for reply in replies)


def main(n: int = 10_000, latency_s: float = 0.1) -> None:
    """Measure and print."""
    faults = [
        error(529),
        error(429, retry_after="0"),
        Fault(reset=True),
        Fault(200, "<html>", media_type="text/html"),
        Fault(half=True),
    ]
    with FakeMessagesApi() as api, tempfile.TemporaryDirectory() as folder:
        api.reset(delay=latency_s)
        sequential, _ = timed(api, Path(folder) / "one", min(n, 100), 1)
        peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        chance = random.Random(0)
        api.script = [chance.choice(faults) if chance.random() < FAULT_SHARE else None for _ in range(2 * n)]
        together, n_answered = timed(api, Path(folder) / "many", n, 16)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) / 1024
        print(f"sequential {sequential:.1f} calls/s, concurrency 16: {together:.1f} calls/s = {together / sequential:.1f} x")
        print(
            f"{n_answered} of {n} answered under {FAULT_SHARE:.0%} faults; memory grew by {grown:.0f} MB (with the server's log)"
        )


if __name__ == "__main__":
    main(*(kind(value) for kind, value in zip((int, float), sys.argv[1:], strict=False)))
