"""bench/RESULTS.md from bench/results/*.json: `python -m bench.report`. A test holds the two together."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from bench.rounds import ratios, summary

FOLDER = Path(__file__).resolve().parent
RESULTS, PAGE = FOLDER / "results", FOLDER / "RESULTS.md"
INTRODUCTION = """# Results of the benchmarks

Measured by `make bench`; written by `python -m bench.report` from `bench/results/*.json` (every round's times, all settings).

Contenders run in processes of their own, pinned to the same core, in interleaved rounds; a ratio is taken within a round, and
the table gives the median (least to greatest). All start from the same weights and see the same batches. "us/token": processor
time of whole training steps (forward, backward, clipping, optimizer, dead counters). "bfloat16": of the large products; masters
and Adam are float32 on our side, autocast on the peers'. What is not alike: dictionary_learning and sparsify keep decoder rows at
norm 1 by projection and renormalisation, which our form does not need; sparsify does not clip gradients; our process keeps freed
memory (`sae_pipeline/allocator.py`), as it does in training.
"""


def page(records: list[dict[str, Any]]) -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    if records:
        machine, loads = records[0]["machine"], [record["load"] for record in records]
        lines += [
            f"Machine: {machine['cpu']}, {machine['n_cores']} cores, {machine['memory_gb']} GB; {machine['device']}. "
            f"Python {machine['python']}, PyTorch {machine['torch']}. {records[0]['date']}. "
            f"Load average before a suite: {min(loads):.1f} to {max(loads):.1f}.",
            "",
        ]
    lines += ["## Bars", "", "| suite | against | ratio | bar | |", "|---|---|---|---|---|"]
    for record in records:
        for pair in record["pairs"]:
            values = ratios(record, pair["slower"], pair["faster"])
            mark = "" if not pair["bar"] else "passed" if median(values) >= pair["bar"] else "**missed**"
            lines.append(f"| {record['title']} | {pair['what']} | {summary(values)} | {pair['bar'] or ''} | {mark} |")
    lines.append("")
    for record in records:
        lines += section(record)
    return "\n".join(lines).rstrip() + "\n"


def section(record: dict[str, Any]) -> list[str]:
    """One suite."""
    shape = record["shape"]
    lines = [
        f"## {record['title']}",
        "",
        f"d {shape['d_model']}, F {shape['n_features']:,}, k {shape['k']}, N {shape['batch']:,}; {record['threads']} thread"
        f"{'s' if record['threads'] > 1 else ''}, {record['clock']}; {record['n_rounds']} rounds.",
        "",
        "| contender | us/token, median (min to max) | steps a round | peak GB | squared error before | after |",
        "|---|---|---|---|---|---|",
    ]
    for label, one in record["contenders"].items():
        errors = ["" if one[key] is None else f"{one[key]:.4g}" for key in ("mse_before", "mse_after")]
        lines.append(
            f"| {label} | {summary(one['us_per_token'])} | {one['steps_per_round']} | {one['peak_rss_bytes'] / 1e9:.2f} | "
            f"{' | '.join(errors)} |"
        )
    return [*lines, ""]


def read() -> list[dict[str, Any]]:
    """All records, in the order in which they were measured."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    return sorted(records, key=lambda record: record["order"])


def write() -> None:
    """Write the page."""
    PAGE.write_text(page(read()), encoding="utf-8")


if __name__ == "__main__":
    write()
