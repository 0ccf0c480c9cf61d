"""bench/RESULTS.md from bench/results/*.json: `python -m bench.report`. A test holds the two together."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from bench import absolute, allocator_marks, coverage, notes
from bench.absolute import Row
from bench.allocator_marks import LIMITS
from bench.contenders import JUMPRELU_FORM, L1
from bench.gpu_suites import gpu_suites
from bench.quality import frontier
from bench.rounds import ratios, short_commit, summary
from bench.suite import ERROR
from bench.suites import all_suites
from sae_pipeline.errors import UserError
from sae_pipeline.sae.names import has_k

FOLDER = Path(__file__).resolve().parent
RESULTS, PAGE = FOLDER / "results", FOLDER / "RESULTS.md"
INTRODUCTION = """# Results of the benchmarks

Measured by `make bench`; written by `python -m bench.report` from `bench/results/*.json` (every round's times, all settings, the
peers' configurations, our commit; what a result lacks of these is said where it stands).

Contenders run in processes of their own, pinned to the same core, in interleaved rounds; a ratio is taken within a round, and
the table gives the median (least to greatest), which is held against the bar; fewer than five rounds are marked. All start from
the same weights and see the same batches. "us/token": processor time of whole training steps (forward, backward, clipping,
optimizer, dead counters). "bfloat16": of the large products; masters and Adam are float32 on our side, autocast on the peers'.
Float32 is every peer's default on a CPU. AuxK finds no dead feature, or is off, but in the suite that says so. The learning rate
of steps is 1e-4 on all sides; where a penalty holds the number of active features (ReLU-L1, and sparse against dense) it is
1e-6, because that number must stay where it was set; of equal training 1e-3.

What is not alike: dictionary_learning and sparsify keep decoder rows at norm 1 by projection and renormalisation, which our form
does not need; sparsify does not clip gradients. dictionary_learning is release 0.1.0, as the package index gives it; the
definitions of the benchmarks name a later commit of its repository (60ec6bf), with which it was not compared. "One stream" for
six SAEs is a loop over our steps on one batch, not the pipeline's own loop with its checkpoints and logs, and SAELens's trainers
are given the same batch in the same way."""


def page(records: list[dict[str, Any]], quality: dict[str, Any] | None = None) -> str:
    """The whole page. `quality`: what `bench.quality` found."""
    lines = [INTRODUCTION, "", allocator_marks.paragraph(records), ""]
    groups = [[record for record in records if record["device"] == device] for device in ("cpu", "cuda")]
    for group, heading in zip(groups, ("## Bars", "## Bars on a GPU"), strict=True):
        if group:
            lines += bars(group, heading)
    lines += coverage.section(records) + guards(records)
    if quality is not None:
        lines += frontier.section(quality)
    for record in records:
        lines += section(record)
    return "\n".join(lines).rstrip() + "\n"


def bars(records: list[dict[str, Any]], heading: str) -> list[str]:
    """The machine of one device, and every ratio beside its bar."""
    machine, loads = records[0]["machine"], [record["load"] for record in records]
    dates = sorted({record["date"] for record in records})
    rows = [ratio(record, pair) for record in records for pair in record["pairs"]] + absolute.rows(records)
    lines = [
        f"Machine: {machine['cpu']}, {machine['n_cores']} cores, {machine['memory_gb']} GB; {machine['device']}. "
        f"Python {machine['python']}, PyTorch {machine['torch']}. {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}. "
        f"Load average before a suite: {min(loads):.1f} to {max(loads):.1f}.",
        "", heading, "", "| suite | against | ratio | bar | |", "|---|---|---|---|---|", *(row.line() for row in rows), "",
    ]  # fmt: skip
    if records[0]["device"] == "cpu":
        lines += [absolute.memory(), ""]
    missed = [row for row in rows if "missed" in row.mark and (row.name, row.what) in notes.NOTES]
    if missed:
        lines += ["Why bars were missed:", ""]
    for row in missed:
        lines += [f"* **{row.title}, {row.what}.** {notes.NOTES[row.name, row.what].format(*row.note_values)}", ""]
    return lines


def ratio(record: dict[str, Any], pair: dict[str, Any]) -> Row:
    """One pair of contenders."""
    values, doubt = ratios(record, pair["slower"], pair["faster"]), doubts(record, pair)
    passed = "not final" if allocator_marks.WITHOUT in doubt else "passed"
    verdict = "" if not pair["bar"] else passed if median(values) >= pair["bar"] else "**missed**"
    mark = ", ".join(filter(None, [verdict, *doubt]))
    ours = median(record["contenders"][pair["faster"]]["us_per_token"])
    return Row(
        record["name"], record["title"], pair["what"], summary(values), f"{pair['bar'] or ''}", mark,
        allocator_marks.mark(record, pair), (ours,),
    )  # fmt: skip


def doubts(record: dict[str, Any], pair: dict[str, Any]) -> list[str]:
    """What keeps a ratio from being final: a peer that lacked what ours had, too few rounds."""
    label = pair["slower"]
    asked = record["device"] == "cpu" and allocator_marks.is_peer(label) and allocator_marks.DEFAULT not in label
    lacks = asked and not record["contenders"][label].get("keeps_freed_memory")
    return [allocator_marks.WITHOUT] * lacks + absolute.few(record)


def guards(records: list[dict[str, Any]]) -> list[str]:
    """Equal training: the largest relative difference of errors over the rounds of a parity suite."""
    lines = [
        "## Guards", "", "A suite starts only when all its contenders agree (within 1e-4 in float32, 1e-2 in bfloat16) on what "
        "its table gives as 'before': the squared error at the same weights for training steps, activations of the same weights "
        "and tokens for a harvest, what was found or read back for the rest. A shuffle's guard is weaker: what it serves first "
        "is its own affair, so it is only checked that all rows are rows it was given. The machine's limits (product, copy) "
        f"have none.{unguarded(records)} Trained on under a peer's own rules (constraints, loss and clipping: "
        "`bench/matched.py`), our step must have the peer's error after 50, 100, 150 and 200 steps:", "",
        "| suite | peer | largest difference | bound | | measured |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for record in records:
        for pair in record.get("alike", ()):
            theirs, ours = (record["contenders"][pair[side]]["mse_by_round"] for side in ("slower", "faster"))
            worst = max(abs(own / other - 1) for own, other in zip(ours, theirs, strict=True))
            mark = "passed" if worst <= pair["bar"] else "**missed**"
            found = f"{worst:.2%} | {pair['bar']:.0%} | {mark} | {record['date']}{commit(record)}"
            lines.append(f"| {record['title']} | {pair['what']} | {found} |")
    older = [record["title"] for record in records if record.get("alike") and "commit" not in record]
    note = f"From before results held our commit and the peers' whole configurations: {'; '.join(older)}."
    return [*lines, "", *([note, ""] if older else [])]


def unguarded(records: list[dict[str, Any]]) -> str:
    """Results that are older than the guard of their suite."""
    names = [
        record["title"]
        for record in records
        if any(one["mse_before"] is None for label, one in record["contenders"].items() if not label.startswith(LIMITS))
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
        f"d {shape['d_model']}, F {shape['n_features']:,}, {sparsity(record)}, N {shape['batch']:,}{learning_rate(record)}; "
        f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}, {record['clock']}; {record['n_rounds']} rounds, "
        f"{record['date']}.{roofline(record)}{commit(record)}",
        "",
        *(line for begin, remark in notes.REMARKS.items() if record["name"].startswith(begin) for line in (remark, "")),
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


def sparsity(record: dict[str, Any]) -> str:
    """What sets it: k, or the number of active features to begin with."""
    if has_k(record["architecture"]):
        return f"k {record['shape']['k']}"
    form = f", our form `{JUMPRELU_FORM}`" if record["architecture"] == "jumprelu" else ""
    start = f"L0 {record['target_l0']} to begin with" if record["target_l0"] else f"penalty {L1}"
    return start + form


def learning_rate(record: dict[str, Any]) -> str:
    """Where it was recorded, of a suite of steps."""
    rates = {f"{one['spec']['learning_rate']:g}" for one in record["contenders"].values() if "spec" in one}
    return f", learning rate {', '.join(sorted(rates))}" if rates and record.get("guard", ERROR) == ERROR else ""


def commit(record: dict[str, Any]) -> str:
    """Ours, where it was recorded."""
    return f" Commit {short_commit(record['commit'])}." if "commit" in record else ""


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
