"""What the rows of `bench.quality` say: ours against each peer at the peer's own L0, paired by seed; a table and a figure.

Ours at a peer's L0 is read off the straight line (in the logarithm of L0) between our two neighbouring sparsities of the same
seed. The true curve bends above that line, so this errs in the peer's favour.
"""

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.quality.runs import OURS

RESULTS = Path(__file__).resolve().parent.parent / "results"
FILE, FIGURE = RESULTS / "quality.json", RESULTS / "quality.png"
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # Student, by the number of seeds
REACH = 1.02  # a peer's L0 may lie this factor outside of ours: equal L0 within 2 %
METRICS = {"explained_variance": "explained variance", "ce_recovered": "cross-entropy recovered"}


@dataclass(frozen=True)
class Comparison:
    """One peer at one sparsity, one metric. `difference`: ours minus the peer's, by seed."""

    architecture: str
    peer: str
    sparsity: float
    l0: float
    theirs: float
    ours: float
    difference: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the differences."""
        return statistics.mean(self.difference)

    @property
    def half_width(self) -> float:
        """Of the 95 % interval of the mean over seeds."""
        n = len(self.difference)
        return T_975[n] * statistics.stdev(self.difference) / math.sqrt(n)

    @property
    def verdict(self) -> str:
        """Above, level (the interval holds 0) or below."""
        if abs(self.mean) <= self.half_width:
            return "level"
        return "above" if self.mean > 0 else "**below**"


def at_l0(points: list[tuple[float, float]], l0: float) -> float | None:
    """The metric at `l0` between `points` of (L0, metric); None where there are none on both sides."""
    points = sorted(points)
    if not points or not points[0][0] / REACH <= l0 <= points[-1][0] * REACH:
        return None
    wanted = math.log(min(max(l0, points[0][0]), points[-1][0]))
    for (low, at_low), (high, at_high) in pairwise(points):
        if math.log(low) <= wanted <= math.log(high):
            share = (wanted - math.log(low)) / (math.log(high) - math.log(low))
            return at_low + share * (at_high - at_low)
    return points[0][1]


def compare(rows: list[dict[str, Any]], metric: str) -> tuple[list[Comparison], list[str]]:
    """(comparisons, which peers cannot be compared and why)."""
    ours: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    peers: dict[tuple[str, str, float], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["contender"] == OURS:
            ours[row["architecture"], row["seed"]].append((row["l0"], row[metric]))
        else:
            peers[row["architecture"], row["contender"], row["sparsity"]].append(row)
    made, left_out = [], []
    for (architecture, peer, sparsity), theirs in peers.items():
        matched = {row["seed"]: at_l0(ours[architecture, row["seed"]], row["l0"]) for row in theirs}
        l0 = statistics.mean(row["l0"] for row in theirs)
        if None in matched.values() or len(theirs) < 2:
            reached = [point[0] for row in theirs for point in ours[architecture, row["seed"]]]
            span = f"ours were measured from {min(reached):.0f} to {max(reached):.0f}" if reached else "ours were not measured"
            left_out.append(f"{peer} {architecture} {sparsity:g}: L0 {l0:.0f}, {span}")
            continue
        values = {seed: value for seed, value in matched.items() if value is not None}
        difference = tuple(values[row["seed"]] - row[metric] for row in theirs)
        mean = statistics.mean(row[metric] for row in theirs)
        made.append(Comparison(architecture, peer, sparsity, l0, mean, statistics.mean(values.values()), difference))
    return made, left_out


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
        f"with the reconstruction in the model, {rows[0]['n_tokens_spliced']:,} held-out tokens. Differences are taken at the "
        f"peer's L0, between our two sparsities on either side, and paired by seed; intervals are Student's, 95 %. "
        f"{found['machine']['cpu']}, {found['date']}.", "",
        "What this does not show. Equal L0 is interpolated: ours was trained at three sparsities, a factor of about 2 apart, "
        "each peer at one, and no SAE of ours has just the peer's L0 (but where both are told the same k). Nobody's learning "
        "rate was searched for: all have the same one, which may suit a peer less. " + windows(s), "",
        "![L0 against explained variance and cross-entropy recovered](results/quality.png)", "",
    ]  # fmt: skip
    for metric, name in METRICS.items():
        made, left_out = compare(rows, metric)
        lines += [
            f"### {name.capitalize()} at the peer's L0", "",
            "| architecture | peer | L0 | peer | ours | ours minus peer (95 %) | |", "|---|---|---|---|---|---|---|",
            *(f"| {one.architecture} | {one.peer} {one.sparsity:g} | {one.l0:.1f} | {one.theirs:.4f} | {one.ours:.4f} | "
              f"{one.mean:+.4f} ± {one.half_width:.4f} | {one.verdict} |" for one in made), "",
            *(f"Not compared: {'; '.join(left_out)}." for _ in left_out[:1]), *("" for _ in left_out[:1]),
            conclusion(made, name), "",
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


def windows(settings: dict[str, Any]) -> str:
    """After how many silent tokens a feature was dead, on either side."""
    if "dead_after_tokens" in settings:
        return (
            f"On all sides a feature counts as dead, for auxiliary losses, after {settings['dead_after_tokens']:,} silent tokens."
        )
    return (
        "These results were measured while peers had their own windows after which a feature counts as dead (1,000 steps; 10 "
        "million tokens), longer than the budget, so that their auxiliary losses never acted, and ours did in the last quarter: "
        "differences for topk, batch_topk, matryoshka and jumprelu are not final until they are measured again at equal windows."
    )


def conclusion(made: list[Comparison], name: str) -> str:
    """One sentence on the best peer of each architecture."""
    words = []
    for architecture in dict.fromkeys(one.architecture for one in made):
        closest = min((one for one in made if one.architecture == architecture), key=lambda one: one.mean)
        words.append(f"{architecture} {closest.verdict} ({closest.mean:+.4f}, {closest.peer})")
    return f"In {name}, against the peer that comes closest to ours or is ahead: {'; '.join(words)}."


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
