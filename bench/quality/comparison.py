"""Ours against each peer at the peer's own L0: pairs of SAEs that were trained on the same tokens in the same order and whose
L0 on the same held-out tokens is within 2 % of each other, in every seed."""

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass

from bench.quality.matching import TOLERANCE, Row, deviation, nearest
from bench.quality.runs import OTHER_FORM, OURS

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # Student, by the number of seeds


@dataclass(frozen=True)
class Comparison:
    """One peer at one sparsity, one metric, over seeds. `difference`: ours minus the peer's, by seed. `deviation`: the largest of
    our L0 from the peer's, relative, of any seed."""

    architecture: str
    peer: str
    sparsity: float
    their_l0: float
    our_l0: float
    deviation: float
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

    @property
    def is_like_with_like(self) -> bool:
        """Whether both have the same form of the penalty."""
        return (self.architecture, self.peer) not in OTHER_FORM


def compare(rows: list[Row], metric: str) -> tuple[list[Comparison], list[str]]:
    """(comparisons, which peers cannot be compared and why)."""
    peers: dict[tuple[str, str, float], list[Row]] = defaultdict(list)
    for row in rows:
        if row["contender"] != OURS:
            peers[row["architecture"], row["contender"], row["sparsity"]].append(row)
    made, left_out = [], []
    for (architecture, peer, sparsity), theirs in peers.items():
        pairs = [(ours, row) for row in theirs if (ours := nearest(rows, row)) is not None]
        name = f"{peer} {architecture} {sparsity:g}"
        if len(pairs) < max(2, len(theirs)):
            left_out.append(f"{name}: {len(theirs)} seeds, {len(pairs)} of ours")
            continue
        largest = max(abs(deviation(ours, row)) for ours, row in pairs)
        their_l0, our_l0 = (statistics.mean(pair[side]["l0"] for pair in pairs) for side in (1, 0))
        if largest > TOLERANCE:
            left_out.append(f"{name}: L0 {their_l0:.1f}, ours reached {our_l0:.1f} (in one seed {largest:.1%} away)")
            continue
        mean_theirs, mean_ours = (statistics.mean(pair[side][metric] for pair in pairs) for side in (1, 0))
        difference = tuple(ours[metric] - row[metric] for ours, row in pairs)
        made.append(Comparison(architecture, peer, sparsity, their_l0, our_l0, largest, mean_theirs, mean_ours, difference))
    return made, left_out


def conclusion(made: list[Comparison], name: str) -> list[str]:
    """A sentence on the best peer of each architecture, like with like, and one on what is held against another form."""
    words = []
    for architecture in dict.fromkeys(one.architecture for one in made):
        like = [one for one in made if one.architecture == architecture and one.is_like_with_like]
        if like:
            closest = min(like, key=lambda one: one.mean)
            words.append(f"{architecture} {closest.verdict} ({closest.mean:+.4f}, {closest.peer})")
    lines = [f"In {name}, like with like, against the peer that comes closest to ours or is ahead: {'; '.join(words)}."]
    for one in made:
        if not one.is_like_with_like:
            lines.append(
                f"Across penalty forms ours is {one.verdict} ({one.mean:+.4f} ± {one.half_width:.4f}): {one.architecture} with "
                f"the tanh penalty against {one.peer}'s, whose penalty is on the number of active features."
            )
    return lines
