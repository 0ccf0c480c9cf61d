"""bench/RESULTS.md from bench/results/*.json: `python -m bench.report`. A test holds the two together."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from bench import notes
from bench.gpu_suites import gpu_suites
from bench.quality import frontier
from bench.rounds import ratios, summary
from bench.suite import ERROR
from bench.suites import all_suites
from sae_pipeline.errors import UserError

FOLDER = Path(__file__).resolve().parent
RESULTS, PAGE = FOLDER / "results", FOLDER / "RESULTS.md"
ROUNDS = 5  # fewer are marked
OURS = ("our", "six SAEs", "encode only", "copy")  # how labels that are not a peer's begin
INTRODUCTION = """# Results of the benchmarks

Measured by `make bench`; written by `python -m bench.report` from `bench/results/*.json` (every round's times, all settings, the
peers' whole configurations, our commit).

Contenders run in processes of their own, pinned to the same core, in interleaved rounds; a ratio is taken within a round, and
the table gives the median (least to greatest); fewer than five rounds are marked. All start from the same weights and see the
same batches. "us/token": processor time of whole training steps (forward, backward, clipping, optimizer, dead counters).
"bfloat16": of the large products; masters and Adam are float32 on our side, autocast on the peers'. Float32 is every peer's
default on a CPU. AuxK finds no dead feature, or is off, but in the suite that says so.

"As installed" (`allocator=default`): the peer in a process as its user starts it. Ours always keeps the memory that it frees,
because our pipeline sets that for itself (`sae_pipeline/allocator.py`). "With our allocator's setting": the peer is given it;
so it is in all suites that do not say "as installed". The bars of the steps and the shuffle are held against peers as installed.
That was decided after a run in which every peer had the setting and missed bars were seen; what such peers reach stands in the
rows without a bar, and there several float32 ratios and the shuffle lie below the bar of the row above. What is not alike:
dictionary_learning and sparsify keep decoder rows at norm 1 by projection and renormalisation, which our form does not need;
sparsify does not clip gradients. "One stream" for six SAEs is a loop over our steps on one batch, not the pipeline's own loop
with its checkpoints and logs, and SAELens's trainers are given the same batch in the same way.
"""
WITHOUT = "peers without the allocator setting"


def page(records: list[dict[str, Any]], quality: dict[str, Any] | None = None) -> str:
    """The whole page. `quality`: what `bench.quality` found."""
    lines = [INTRODUCTION]
    groups = [[record for record in records if record["device"] == device] for device in ("cpu", "cuda")]
    for group, heading in zip(groups, ("## Bars", "## Bars on a GPU"), strict=True):
        if group:
            lines += bars(group, heading)
    lines += guards(records)
    if quality is not None:
        lines += frontier.section(quality)
    for record in records:
        lines += section(record)
    return "\n".join(lines).rstrip() + "\n"


def bars(records: list[dict[str, Any]], heading: str) -> list[str]:
    """The machine of one device, and every ratio beside its bar."""
    machine, loads = records[0]["machine"], [record["load"] for record in records]
    lines = [
        f"Machine: {machine['cpu']}, {machine['n_cores']} cores, {machine['memory_gb']} GB; {machine['device']}. "
        f"Python {machine['python']}, PyTorch {machine['torch']}. {records[0]['date']}. "
        f"Load average before a suite: {min(loads):.1f} to {max(loads):.1f}.",
        "", heading, "", "| suite | against | ratio | bar | |", "|---|---|---|---|---|",
    ]  # fmt: skip
    reasons = []
    for record in records:
        for pair in record["pairs"]:
            values = ratios(record, pair["slower"], pair["faster"])
            doubt = doubts(record, pair)
            passed = "not final" if WITHOUT in doubt else "passed"
            mark = "" if not pair["bar"] else passed if median(values) >= pair["bar"] else "**missed**"
            mark = ", ".join(filter(None, [mark, *doubt]))
            lines.append(f"| {record['title']} | {pair['what']} | {summary(values)} | {pair['bar'] or ''} | {mark} |")
            if "missed" in mark and (note := notes.NOTES.get((record["name"], pair["what"]))):
                reasons += ["", f"* **{record['title']}, {pair['what']}.** {note}"]
    lines += within(records)
    return [*lines, *(["", "Why bars were missed:", *reasons] if reasons else []), ""]


def within(records: list[dict[str, Any]]) -> list[str]:
    """What has no peer, beside the time and the memory that it may take."""
    lines: list[str] = []
    for record in records:
        for limit in record.get("limits", ()):
            one = record["contenders"][limit["contender"]]
            seconds = [us * record["shape"]["batch"] / 1e6 for us in one["wall_us_per_token"]]
            gigabytes = one["peak_rss_bytes"] / 1e9
            mark = "passed" if median(seconds) <= limit["wall_s"] and gigabytes <= limit["peak_gb"] else "**missed**"
            bar = f"{limit['wall_s']:g} s, {limit['peak_gb']:g} GB"
            lines.append(
                f"| {record['title']} | {limit['what']}, {record['threads']} threads | {summary(seconds)} s, {gigabytes:.2f} GB "
                f"| at most {bar} | {mark} |"
            )
    return lines


def doubts(record: dict[str, Any], pair: dict[str, Any]) -> list[str]:
    """What keeps a ratio from being final: a peer that lacked what ours had, too few rounds."""
    one = record["contenders"][pair["slower"]]
    peer = record["device"] == "cpu" and not pair["slower"].startswith(OURS) and "allocator=default" not in pair["slower"]
    lacks = peer and not one.get("keeps_freed_memory")
    return [WITHOUT] * lacks + [f"{record['n_rounds']} rounds"] * (record["n_rounds"] < ROUNDS)


def guards(records: list[dict[str, Any]]) -> list[str]:
    """Equal training: the largest relative difference of errors over the rounds of a parity suite."""
    lines = [
        "## Guards", "", "A suite starts only when all its contenders agree (within 1e-4 in float32, 1e-2 in bfloat16) on what "
        "its table gives as 'before': the squared error at the same weights for training steps, activations of the same weights "
        "and tokens for a harvest, what was found or read back for the rest. A shuffle's guard is weaker: what it serves first "
        "is its own affair, so it is only checked that all rows are rows it was given. The machine's limits (product, copy) "
        f"have none.{unguarded(records)} Trained on under a peer's own rules (constraints, loss and clipping: "
        "`bench/matched.py`), our step must have the peer's error after 50, 100, 150 and 200 steps:", "",
        "| suite | peer | largest difference | bound | |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for record in records:
        for pair in record.get("alike", ()):
            theirs, ours = (record["contenders"][pair[side]]["mse_by_round"] for side in ("slower", "faster"))
            worst = max(abs(own / other - 1) for own, other in zip(ours, theirs, strict=True))
            mark = "passed" if worst <= pair["bar"] else "**missed**"
            lines.append(f"| {record['title']} | {pair['what']} | {worst:.2%} | {pair['bar']:.0%} | {mark} |")
    return [*lines, ""]


def unguarded(records: list[dict[str, Any]]) -> str:
    """Results that are older than the guard of their suite."""
    names = [
        record["title"]
        for record in records
        if any(one["mse_before"] is None for label, one in record["contenders"].items() if not label.startswith(OURS[2:]))
    ]
    return f" Measured before there was a guard: {'; '.join(names)}." if names else ""


def section(record: dict[str, Any]) -> list[str]:
    """One suite."""
    shape = record["shape"]
    trained = any(one["mse_by_round"] for one in record["contenders"].values())
    is_step = record.get("guard", ERROR) == ERROR
    floor = {dtype: record["contenders"].get(f"encode only {dtype}") for dtype in ("bfloat16", "float32")}
    lines = [
        f"## {record['title']}",
        "",
        f"d {shape['d_model']}, F {shape['n_features']:,}, k {shape['k']}, N {shape['batch']:,}; {record['threads']} thread"
        f"{'s' if record['threads'] > 1 else ''}, {record['clock']}; {record['n_rounds']} rounds."
        f"{roofline(record)}{commit(record)}",
        "",
        f"| contender | us/token, median (min to max) | {'' if trained else 'encoder alone / this | '}steps a round | peak GB | "
        f"{record.get('guard', ERROR)} before | {'after each round | ' if trained else ''}".rstrip(),
        f"|---|---|---|---|---|{'' if trained else '---|'}{'---|' if trained else ''}",
    ]
    for label, one in record["contenders"].items():
        limit = (
            next((floor[dtype] for dtype in floor if dtype in label), None) if is_step and one["mse_before"] is not None else None
        )
        share = f"{median(limit['us_per_token']) / median(one['us_per_token']):.2f}" if limit else ""
        before = "" if one["mse_before"] is None else f"{one['mse_before']:.4g}"
        after = " | " + ", ".join(f"{error:.4g}" for error in one["mse_by_round"]) if trained else ""
        lines.append(
            f"| {label} | {summary(one['us_per_token'])} | {'' if trained else share + ' | '}{one['steps_per_round']} | "
            f"{one.get('peak_device_bytes', one['peak_rss_bytes']) / 1e9:.2f} | {before}{after} |"
        )
    return [*lines, ""]


def roofline(record: dict[str, Any]) -> str:
    """The machine's limits in the rounds of this suite."""
    found, n_tokens = [], record["shape"]["batch"]
    for label, one in record["contenders"].items():
        us = median(one["us_per_token"])
        if label.startswith("encode only"):
            found.append(f"{label.split()[-1]} product {one['config']['operations'] / us / 1e3:.0f} GFLOP/s")
        if label.startswith("copy"):
            found.append(f"copy {one['config']['bytes'] / (us * n_tokens) / 1e3:.1f} GB/s (read and written)")
    return f" Roofline: {', '.join(found)}." if found else ""


def commit(record: dict[str, Any]) -> str:
    """Ours, where it was recorded."""
    return f" Commit {record['commit'][:12]}{'-dirty' * record['commit'].endswith('-dirty')}." if "commit" in record else ""


def read() -> list[dict[str, Any]]:
    """All records, in the order of the suites, those of a GPU last. Raises `UserError` for a result of no suite."""
    files = [file for file in sorted(RESULTS.glob("*.json")) if file != frontier.FILE]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    order = [suite.name for suite in (*all_suites(), *gpu_suites())]
    for file, record in zip(files, records, strict=True):
        if record["name"] not in order:
            what = f"is a result of suite {record['name']}, which is no more"
            raise UserError(str(file), what, "Delete the file, or bring the suite back.")
    return sorted(records, key=lambda record: order.index(record["name"]))


def write() -> None:
    """Write the page."""
    PAGE.write_text(page(read(), frontier.read()), encoding="utf-8")


if __name__ == "__main__":
    write()
