"""All comparisons: `python -m bench [--device cpu|cuda] [--only NAME ...] [--rounds N]`, or `make bench`.

Needs the peers' environments (`python -m bench.environment`; `make bench` makes them). Writes bench/results/*.json, RESULTS.md.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import report
from bench.gpu_suites import gpu_suites
from bench.rounds import ROOT, compare
from bench.suite import Suite
from bench.suites import all_suites

SAME_ERROR = {"float32": 1e-4, "bfloat16": 1e-2}
PARITY_ROUNDS = 4


def run(suite: Suite, n_rounds: int, device: str, scratch: Path) -> dict[str, Any]:
    """One record, after the check that all contenders had the same error (or other guard) before the first step."""
    load = os.getloadavg()[0]
    suite = replace(suite, specs=tuple(replace(spec, device=device) for spec in suite.with_rooflines()))
    n_rounds = PARITY_ROUNDS if suite.parity_steps else n_rounds
    # A GPU's host side may use any core: nobody else is timed there.
    cpus = ",".join(map(str, range(max(spec.threads for spec in suite.specs)))) if device == "cpu" else ""
    record = compare(list(suite.specs), n_rounds, scratch, cpus, suite.parity_steps, suite.n_steps)
    before = {spec.label: record["contenders"][spec.label]["mse_before"] for spec in suite.specs}
    reference = next((value for value in before.values() if value is not None), None)
    for spec in suite.specs:
        value = before[spec.label]
        if value is not None and abs(value - reference) > SAME_ERROR[spec.dtype] * reference:
            raise RuntimeError(
                f"{suite.name}: {spec.label} starts with a {suite.guard} of {value}, not {reference}: nothing was compared"
            )
    return {
        "name": suite.name, "title": suite.title, "n_rounds": n_rounds, "load": round(load, 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine(device), "commit": commit(),
        "pairs": [asdict(pair) for pair in suite.pairs], "alike": [asdict(pair) for pair in suite.alike], "guard": suite.guard,
        "limits": [asdict(limit) for limit in suite.limits],
        **record,
    }  # fmt: skip


def commit() -> str:
    """Our own, with `-dirty` when tracked files other than results differ from it; "not a git checkout" where there is none."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)

    found = git("rev-parse", "HEAD")
    if found.returncode:
        return "not a git checkout"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!bench/results", ":!bench/RESULTS.md").stdout
    return found.stdout.strip() + ("-dirty" if changed else "")


def machine(device: str) -> dict[str, Any]:
    """What it ran on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text(encoding="utf-8").splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "cpu": model, "n_cores": os.cpu_count(), "memory_gb": round(memory), "python": platform.python_version(),
        "torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "CPU only",
    }  # fmt: skip


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", nargs="*", help="suites whose names begin so")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: no CUDA device here (PyTorch {torch.__version__})")
    report.RESULTS.mkdir(exist_ok=True)
    suites = all_suites() if chosen.device == "cpu" else gpu_suites()
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for suite in suites:
            if chosen.only and not any(suite.name.startswith(name) for name in chosen.only):
                continue
            start = time.monotonic()
            try:
                record = run(suite, chosen.rounds, chosen.device, Path(scratch))
            except RuntimeError as error:  # a guard, or a contender that died: the others are measured all the same
                print(f"{suite.name}: {error}", flush=True)
                refused.append(suite.name)
                continue
            file = report.RESULTS / f"{suite.name}.json"
            file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(f"{suite.name}: {time.monotonic() - start:.0f} s", flush=True)
    report.write()
    if refused:
        raise SystemExit(f"not measured: {', '.join(refused)}")


if __name__ == "__main__":
    main()
