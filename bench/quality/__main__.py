"""`python -m bench.quality [--data data/demo] [--study studies/demo.yaml] [--seconds S]`, or `make bench-quality`.

Needs the activations of a finished study and the peers' environment. What was trained or measured before is not done again:
`--seconds` ends a piece of the work, the next call goes on. Without `--only`, ours are also trained at the L0 of every peer's
SAE, and bench/results/quality.json, its figure, and RESULTS.md are written.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.quality import matching
from bench.quality.runs import BATCH, N_STEPS, OURS, Run, all_runs, settings
from bench.rounds import ENVIRONMENTS, ROOT

FOLDER = ROOT / ".bench" / "quality"
TRAINING_SHARE = 0.7  # of a piece; the rest is for measuring


def prepare(data: Path) -> None:
    """`train.npy`: a random choice of scaled, unmasked training tokens, as many as the budget."""
    from sae_pipeline.activations.reader import ActivationReader

    file = FOLDER / "train.npy"
    if file.is_file():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    reader = ActivationReader.open(data / "activations")
    index_N = reader.token_index("train")
    chosen_N = np.random.default_rng(0).permutation(len(index_N))[: BATCH * N_STEPS]
    if len(chosen_N) < BATCH * N_STEPS:
        raise SystemExit(f"{data}: {len(index_N)} training tokens, {BATCH * N_STEPS} are needed")
    scratch = file.with_name(f"train.{os.getpid()}.npy")
    np.save(scratch, reader.scaled(reader.gather(index_N[np.sort(chosen_N)])).numpy())
    scratch.rename(file)


def train(runs: Iterable[Run], end: float) -> None:
    """Those of `runs` that were not trained yet, one process per contender."""
    todo = [run for run in runs if not (FOLDER / run.key / "trained.json").is_file()]
    for contender in dict.fromkeys(run.contender for run in todo):
        python = sys.executable if contender == OURS else str(ENVIRONMENTS / "trainers" / "bin" / "python")
        lines = "".join(json.dumps(run.as_dict()) + "\n" for run in todo if run.contender == contender)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        command = [python, "-W", "ignore", "-m", "bench.quality.train", contender, str(FOLDER), str(end - time.monotonic())]
        subprocess.run(command, input=lines, text=True, env=environment, cwd=ROOT, check=True)


def measure(runs: Iterable[Run], study: Path, data: Path, end: float) -> None:
    """Those of `runs` that were trained and not measured yet."""
    trained = [run for run in runs if (FOLDER / run.key / "trained.json").is_file()]
    todo = [run for run in trained if not (FOLDER / run.key / "row.json").is_file()]
    if not todo or time.monotonic() > end:
        return
    from bench.quality.evaluate import Measure, read
    from sae_pipeline.study import load_study

    measured = Measure(load_study(study), data)
    for run in todo:
        if time.monotonic() > end:
            return
        spent = json.loads((FOLDER / run.key / "trained.json").read_text(encoding="utf-8"))
        row = run.as_dict() | measured(read(run, FOLDER, measured.activations)) | spent
        (FOLDER / run.key / "row.json").write_text(json.dumps(row), encoding="utf-8")
        print(json.dumps(row), flush=True)


def rows_of(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """What was measured so far."""
    files = [FOLDER / run.key / "row.json" for run in runs]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def match(runs: list[Run], study: Path, data: Path, end: float) -> list[Run]:
    """`runs` and those of ours that are trained until they have the L0 of each peer's SAE. What was done before is done again in
    the same order from its rows, so a piece goes on where the one before it ended."""
    for _ in range(matching.TRIES):
        rows = rows_of(runs)
        if len(rows) < len(runs):
            break
        more = matching.proposals(rows)
        if not more:
            break
        train(more, end)
        measure(more, study, data, end)
        runs = runs + more
    return runs


def write(runs: Iterable[Run], data: Path) -> None:
    """Results and figure from every row that is there, and the page."""
    import torch

    from bench import report
    from bench.__main__ import commit, machine
    from bench.quality import frontier
    from sae_pipeline.language_model.precision import choose_dtype

    runs = list(runs)
    rows = rows_of(runs)
    if not rows:
        return
    dtype = str(choose_dtype(torch.device("cpu"), "auto")[0]).removeprefix("torch.")
    found = {
        "settings": settings() | {"study": data.name, "product_dtype": dtype}, "machine": machine("cpu"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": commit(), "rows": rows,
    }  # fmt: skip
    frontier.FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    frontier.FIGURE.write_bytes(frontier.figure(found))
    report.write()
    left = len(rows) < len(runs)
    print(f"{len(rows)} of {len(runs)} SAEs measured" + (": run it again to go on" if left else ""), flush=True)


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(prog="bench.quality", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/demo"))
    parser.add_argument("--study", type=Path, default=Path("studies/demo.yaml"))
    parser.add_argument("--seconds", type=float, default=1e6)
    parser.add_argument("--only", nargs="*", default=[""], help="runs whose keys begin so")
    given = parser.parse_args()
    now = time.monotonic()
    runs = [run for run in all_runs() if run.key.startswith(tuple(given.only))]
    prepare(given.data)
    train(runs, now + TRAINING_SHARE * given.seconds)
    measure(runs, given.study, given.data, now + given.seconds)
    if given.only == [""]:
        write(match(runs, given.study, given.data, now + given.seconds), given.data)


if __name__ == "__main__":
    main()
