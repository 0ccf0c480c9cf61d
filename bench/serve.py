"""What a worker does once its allocator is set: JSON lines on standard input and output.

The first line it writes says that it is ready, with its squared error (or other guard) before any step; then each number read is
answered by the seconds which that many steps took (processor time and wall time), and `mse` by the error.
"""

import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np
import torch

from bench.contenders import OWN
from bench.setting import spec_of


def serve(raw_spec: str, data: str, cpus: str, keeps_freed_memory: bool) -> None:
    """Until standard input ends. `cpus`: the cores of the process, separated by commas; empty: any."""
    spec = spec_of(json.loads(raw_spec))
    if hasattr(os, "sched_setaffinity") and cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    torch.set_num_threads(spec.threads)
    x_ND = np.load(data)
    say, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    contender = find(spec.contender)(spec, x_ND)
    batches = [torch.from_numpy(part.copy()).to(spec.device) for part in np.split(x_ND, len(x_ND) // spec.shape.batch)]
    ready = {
        "mse": contender.mse(batches[0]), "config": contender.config, "torch": torch.__version__,
        "keeps_freed_memory": keeps_freed_memory,
    }  # fmt: skip
    print(json.dumps(ready, default=str), file=say, flush=True)
    done = 0
    for line in sys.stdin:
        if line.strip() == "mse":
            print(json.dumps({"mse": contender.mse(batches[0])}), file=say, flush=True)
            continue
        wait(spec.device)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            contender.step(batches[done % len(batches)])
            done += 1
        wait(spec.device)
        took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        took["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if spec.device != "cpu":
            took["peak_device_bytes"] = torch.cuda.max_memory_allocated()
        print(json.dumps(took), file=say, flush=True)


def find(name: str) -> Any:
    """The class of a contender; peers are imported only where they are asked for."""
    if name in OWN:
        return OWN[name]
    from bench.dashboards import DASHBOARDS
    from bench.harvests import HARVESTS
    from bench.matched import MATCHED
    from bench.neighbours import NEIGHBOURS
    from bench.passes import PASSES
    from bench.peers import PEERS
    from bench.queries import QUERIES
    from bench.shuffles import SHUFFLES
    from bench.stores import STORES

    return (PEERS | SHUFFLES | HARVESTS | MATCHED | PASSES | DASHBOARDS | STORES | QUERIES | NEIGHBOURS)[name]


def wait(device: str) -> None:
    """Until the accelerator has finished."""
    if device != "cpu":
        torch.cuda.synchronize()
