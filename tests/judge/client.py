"""A judge in a process of its own: `python -m tests.judge.client <backend> <url> <ledger folder> <n> [<cap in dollars>]`.

With DIE_AT in the environment it kills itself where the server sees nothing: `first connection` (what is going to be asked is on
disk, nothing is sent) or `third outcome` (in the middle of the transaction that writes what a batch answered).
"""

import os
import signal
import sys
from pathlib import Path

from sae_pipeline.judge.batches import BatchJudge
from sae_pipeline.judge.interactive import InteractiveJudge
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.ledger import Caps, Ledger, Outcome
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.request import Settings
from tests.judge.conftest import HOSTED, MODEL, QUICK, question


def ask(backend: str, url: str, folder: Path, n: int, cap_usd: float = 1.0):
    """Ask `n` questions."""
    settings, price = Settings(MODEL, HOSTED, url), price_of(MODEL)
    with Ledger(folder, "run", Caps(cap_usd)) as ledger:
        if backend == "anthropic":
            judge = InteractiveJudge(backend, settings, price, ledger, Key("sk-test"), 3, QUICK)
        else:
            judge = BatchJudge(settings, price, ledger, Key("sk-test"), 20, 0.01, grace_seconds=0.0, limits=QUICK)
        return judge.ask([question(i) for i in range(n)])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(where: str) -> None:
    """Arrange for it."""
    if where == "first connection":
        sys.addaudithook(lambda event, _: die() if event == "socket.connect" else None)
        return
    n_written, write = 0, Ledger.close_within

    def counted(self: Ledger, attempt_id: int, outcome: Outcome) -> None:
        nonlocal n_written
        write(self, attempt_id, outcome)
        n_written += 1
        if n_written == 3:
            die()

    Ledger.close_within = counted


if __name__ == "__main__":
    if where := os.environ.get("DIE_AT"):
        die_at(where)
    ask(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), *map(float, sys.argv[5:]))
