"""A process that trains the runs of one contender: `python -m bench.quality.train CONTENDER FOLDER SECONDS`.

Runs come as JSON lines on standard input. Each SAE goes to FOLDER/<key>/ in its library's own format, `trained.json` last.

Every contender sees the same tokens in the same order (of the seed), the same batches, the same learning rate: constant, falling
to 0 over the last fifth of the steps.
"""

import json
import sys
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bench.quality.runs import BATCH, N_STEPS, OURS, Run


class Trainee(Protocol):
    """One SAE in training."""

    def step(self, index: int, x_ND: Tensor) -> None:
        """Step number `index`, counted from 0."""
        ...

    def save(self, folder: Path) -> None:
        """As its library saves what is used afterwards."""
        ...


def main(contender: str, folder: str, seconds: str) -> None:
    """See the module docstring. No run is begun after `seconds`."""
    end = time.monotonic() + float(seconds)
    x_ND = np.load(Path(folder) / "train.npy", mmap_mode="r")
    if contender == OURS:
        from bench.quality.ours import make
    else:
        from bench.quality.peers import make
    for line in sys.stdin:
        if time.monotonic() > end:
            return
        train(Run(**json.loads(line)), x_ND, Path(folder), make)


def train(run: Run, x_ND: np.ndarray, folder: Path, make) -> None:
    """One run, from its first token to its files."""
    order_N = np.random.default_rng(run.seed).permutation(len(x_ND))
    trainee: Trainee = make(run, x_ND.shape[1])
    spent = time.process_time()
    for index in range(N_STEPS):
        chosen_N = order_N[index * BATCH : (index + 1) * BATCH]
        trainee.step(index, torch.from_numpy(x_ND[chosen_N]))
    place = folder / run.key
    trainee.save(place)
    done = {"seconds": round(time.process_time() - spent, 2)}
    (place / "trained.json").write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:4])
