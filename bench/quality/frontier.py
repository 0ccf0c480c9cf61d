"""What the rows of `bench.quality` say: RESULTS.md's section and the figure."""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.quality.comparison import Comparison, compare, conclusion
from bench.quality.matching import GOAL, TOLERANCE, TRIES
from bench.quality.runs import OURS
from bench.rounds import short_commit

RESULTS = Path(__file__).resolve().parent.parent / "results"
FILE, FIGURE = RESULTS / "quality.json", RESULTS / "quality.png"
METRICS = {"explained_variance": "explained variance", "ce_recovered": "cross-entropy recovered"}
STEP_TRIALS = """\
SAELens's `jumprelu_step` has settings that we chose, because by its defaults no sparse SAE came out in this budget: L0 903 with
coefficient 4 (three seeds, held out); in trials of one seed, L0 on 4,096 training tokens, 663 with 100, 676 with its quadratic
form (target 24), nothing active with an initial threshold of 1. With straight-through gradients into the encoder
(`jumprelu_ste_to_input`) it gets sparse: L0 14 with 4, and 42 with 1.5 (explained variance .634); with threshold .1, bandwidth
2 and the pre-activation loss of its tanh recipe besides, 12 and 40 (.696). The last, the best of these seven trials, is what is
compared, with coefficient 2."""
EARLY = """\
`jumprelu` is the tanh penalty as it was published, its coefficient rising over all steps, ours and SAELens's; `jumprelu_early`
the same with the coefficient full after as many steps as every other penalty's here (ours by `sparsity_warmup`). The second was
added after the first was seen to lie below dictionary_learning's form."""


def section(found: dict[str, Any]) -> list[str]:
    """Lines of RESULTS.md."""
    s, rows = found["settings"], found["rows"]
    lines = [
        "## Quality at equal budget", "",
        f"Activations of the study {s['study']}, {s['n_tokens']:,} training tokens in the same order for all (by seed), F "
        f"{s['n_features']:,}, batches of {s['batch']}, {s['n_steps']} steps, learning rate {s['learning_rate']:g} falling to 0 "
        f"over the last {s['decay_share']:.0%}; {len(s['seeds'])} seeds. Ours as the pipeline trains on this machine "
        f"({s['product_dtype']} products), peers in float32 with their own initialisation, losses and defaults "
        f"(`bench/quality/peers.py`). Every SAE is read from its library's files and measured by the same code: L0 and explained "
        f"variance on {s['n_held_out']:,} held-out tokens at its inference form, cross-entropy recovered (against zero ablation) "
        f"with the reconstruction in the model, {rows[0]['n_tokens_spliced']:,} held-out tokens. {found['machine']['cpu']}, "
        f"{found['date']}{source(found)}.", "",
        "**Equal L0.** Every SAE of a peer is held against one of ours of the same seed that has its L0 on the same held-out "
        "tokens: our sparsity is searched for along the straight line through our two nearest runs, in the logarithms of "
        f"sparsity and L0, until the L0 are within {GOAL:.1%}, at most {TRIES} times (k in whole numbers, coefficients in three "
        f"digits). The search sees no quality. What is more than {TOLERANCE:.0%} away in any seed is not compared; the column "
        "'largest' says how far it was. Differences are paired by seed; intervals are Student's, 95 %.", "",
        "What this does not show. L0 is matched on the very tokens on which it is reported. A difference within the tolerance "
        "is not corrected for. Nobody's learning rate was searched for: all have the same one, which may suit a peer less. Each "
        "peer is compared at one sparsity. On all sides a feature counts as dead, for auxiliary losses, after "
        f"{s['dead_after_tokens']:,} silent tokens.", "",
        " ".join(STEP_TRIALS.split()), "", " ".join(EARLY.split()), "",
        "![L0 against explained variance and cross-entropy recovered](results/quality.png)", "",
    ]  # fmt: skip
    for metric, name in METRICS.items():
        made, left_out = compare(rows, metric)
        lines += [
            f"### {name.capitalize()} at the peer's L0", "",
            "| architecture | peer | L0, peer | L0, ours | largest | peer | ours | ours minus peer (95 %) | |",
            "|---|---|---|---|---|---|---|---|---|",
            *(table_row(one) for one in made), "",
            *(f"Not compared: {'; '.join(left_out)}." for _ in left_out[:1]), *("" for _ in left_out[:1]),
            *conclusion(made, name), "",
        ]  # fmt: skip
    seconds = defaultdict(list)
    for row in rows:
        seconds[row["architecture"], row["contender"]].append(row["seconds"])
    spent = "; ".join(
        f"{architecture} "
        + ", ".join(f"{who} {statistics.median(spent):.1f}" for (name, who), spent in seconds.items() if name == architecture)
        for architecture in dict.fromkeys(name for name, _ in seconds)
    )
    return [*lines, f"Processor seconds of a training (median): {spent}.", ""]


def source(found: dict[str, Any]) -> str:
    """Our commit when the results were written."""
    return f", commit {short_commit(found['commit'])}" if "commit" in found else ", written before our commit was recorded"


def table_row(one: Comparison) -> str:
    """One comparison."""
    peer = f"{one.peer} {one.sparsity:g}" + ("" if one.is_like_with_like else " (another penalty form)")
    return (
        f"| {one.architecture} | {peer} | {one.their_l0:.2f} | {one.our_l0:.2f} | {one.deviation:.1%} | "
        f"{one.theirs:.4f} | {one.ours:.4f} | {one.mean:+.4f} ± {one.half_width:.4f} | {one.verdict} |"
    )


def figure(found: dict[str, Any]) -> bytes:
    """PNG: one column per architecture, one row per metric; every SAE is a mark."""
    from matplotlib.ticker import MaxNLocator

    from sae_pipeline.plots.figure import LIGHT, legend, new_figure, set_title, to_png

    shown = list(dict.fromkeys(row["architecture"] for row in found["rows"]))
    picture, axes = new_figure(LIGHT, 2, len(shown), width=1.7 * len(shown) + 0.5, height=4.6)
    contenders = dict.fromkeys(row["contender"] for row in found["rows"])
    looks = dict(zip(contenders, ((LIGHT.main, "o"), (LIGHT.second, "s"), (LIGHT.controls[2], "^")), strict=False))
    for line, (metric, name) in zip(axes, METRICS.items(), strict=True):
        for axis, architecture in zip(line, shown, strict=True):
            for contender, (color, marker) in looks.items():
                mine = [row for row in found["rows"] if (row["architecture"], row["contender"]) == (architecture, contender)]
                x, y = [row["l0"] for row in mine], [row[metric] for row in mine]
                axis.scatter(x, y, s=16, color=color, marker=marker, label=contender, linewidths=0, alpha=0.85)
            for seed in sorted({row["seed"] for row in found["rows"]}):
                ours = sorted(
                    (row["l0"], row[metric]) for row in found["rows"]
                    if (row["architecture"], row["contender"], row["seed"]) == (architecture, OURS, seed)
                )  # fmt: skip
                axis.plot([p[0] for p in ours], [p[1] for p in ours], color=LIGHT.main, linewidth=0.8, alpha=0.6)
            axis.set_xscale("log", base=2)
            axis.yaxis.set_major_locator(MaxNLocator(4))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            if metric == "explained_variance":
                set_title(axis, architecture, LIGHT)
            else:
                axis.set_xlabel("L0")
        line[0].set_ylabel(name)
    legend(axes[0][0], LIGHT, loc="lower right")
    return to_png(picture)


def read() -> dict[str, Any] | None:
    """The results, if there are any."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else None
