"""How many blocks one forward of the harvest takes: fixed on a CPU, measured on a GPU.

The last bits of activations depend on it. On a CPU it is the same everywhere, so that every rerun gives the same bits. On a GPU
the fastest depends on model, context and card, and which one wins on timings' chance: what was chosen stays in the work folder,
where a harvest that goes on finds it, and in the artefact, where whoever computes activations again does.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

CPU_TOKENS = 4_096  # on 2 CPU cores 10 % faster than 2,048, and no slower than 8,192; on a GPU the first to be tried
LEAST_GAIN = 1.05
FILE = "batch_size.json"

Speed = Callable[[int], float | None]
"""Tokens per second with so many blocks a forward; None when memory does not hold them."""


@dataclass(frozen=True)
class BatchSize:
    """`tokens_per_second`, by blocks of a forward: of every size tried. Empty where nothing was measured: on a CPU, and when a
    harvest goes on with the size it began with."""

    n_blocks: int
    tokens_per_second: dict[int, float]


def batch_size(device: torch.device, context: int, most: int, work: Path, speed: Speed) -> BatchSize:
    """Blocks of a forward of a harvest whose shards have `most` blocks; on a GPU written to `work` unless it is there already."""
    first = blocks_on_cpu(context)
    if device.type != "cuda":
        return BatchSize(first, {})
    file = work / FILE
    if file.is_file():
        return BatchSize(json.loads(file.read_text(encoding="utf-8"))["blocks_per_forward"], {})
    found = fastest(speed, min(first, most), most)
    _keep(file, found.n_blocks)
    return found


def used_by_harvest(batch: BatchSize, n_blocks: int, work: Path) -> BatchSize:
    """What the harvest ended with. Where memory made it take fewer blocks, a harvest that goes on is told."""
    if n_blocks < batch.n_blocks and (work / FILE).is_file():
        _keep(work / FILE, n_blocks)
    return replace(batch, n_blocks=n_blocks)


def _keep(file: Path, n_blocks: int) -> None:
    scratch = file.with_suffix(".partial")
    scratch.write_text(json.dumps({"blocks_per_forward": n_blocks}), encoding="utf-8")
    scratch.rename(file)


def blocks_on_cpu(context: int) -> int:
    """Blocks of about 4,096 tokens."""
    return max(1, CPU_TOKENS // context)


def fastest(speed: Speed, first: int, most: int) -> BatchSize:
    """Doubles from `first` while that gains 5 % or more, up to `most`. `first` itself is not given up: the harvest halves it."""
    best, tried, n_blocks = first, dict[int, float](), first
    while n_blocks <= most and (rate := speed(n_blocks)) is not None:
        gains = not tried or rate >= LEAST_GAIN * tried[best]
        tried[n_blocks] = rate
        if not gains:
            break
        best, n_blocks = n_blocks, 2 * n_blocks
    return BatchSize(best, tried)


def speed_on_gpu(device: torch.device, n_tokens: int, run: Callable[[int], object]) -> Speed:
    """Times `run(blocks of a forward)`, which sends the same `n_tokens` through the model each time.

    A size is not tried when twice what half of it took is more than what is free.
    """
    peak_bytes = 0

    def speed(n_blocks: int) -> float | None:
        nonlocal peak_bytes
        torch.cuda.empty_cache()
        if 2 * peak_bytes > torch.cuda.mem_get_info(device)[0]:
            return None
        torch.cuda.reset_peak_memory_stats(device)
        held_bytes = torch.cuda.memory_allocated(device)
        try:
            run(n_blocks)  # kernels are loaded and memory is reserved now
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            run(n_blocks)
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            return None
        seconds = time.perf_counter() - start
        peak_bytes = torch.cuda.max_memory_allocated(device) - held_bytes
        return n_tokens / seconds

    return speed
