"""SAEs of ours at each peer's L0: of the same architecture and seed, on the same held-out tokens.

A peer's L0 comes out of its training, so ours is searched for: the next sparsity lies where the straight line through our two
nearest runs, in the logarithms of sparsity and L0, meets the peer's L0. The search sees sparsities and L0 and nothing else.
"""

import math
from typing import Any

from bench.quality.runs import BY_K, OURS, Run

GOAL = 0.005  # relative difference in L0 at which the search ends
TOLERANCE = 0.02  # at which two SAEs still count as equal in L0; what lies beyond is not compared
TRIES = 5

Row = dict[str, Any]


def deviation(ours: Row, theirs: Row) -> float:
    """Of our L0 from a peer's, relative to the peer's."""
    return ours["l0"] / theirs["l0"] - 1


def pool(rows: list[Row], theirs: Row) -> list[Row]:
    """Ours that may be held against a peer's SAE."""
    return [
        row for row in rows
        if (row["contender"], row["architecture"], row["seed"]) == (OURS, theirs["architecture"], theirs["seed"])
    ]  # fmt: skip


def nearest(rows: list[Row], theirs: Row) -> Row | None:
    """Ours of the same architecture and seed whose L0 is nearest to the peer's; None where there is none."""
    return min(pool(rows, theirs), key=lambda row: abs(math.log(row["l0"] / theirs["l0"])), default=None)


def proposals(rows: list[Row]) -> list[Run]:
    """What to train next: at most one run for each peer's SAE, none where ours is near enough or nothing is left to try."""
    found = (proposal(rows, row) for row in rows if row["contender"] != OURS)
    return list(dict.fromkeys(run for run in found if run is not None))


def proposal(rows: list[Row], theirs: Row) -> Run | None:
    """See `proposals`. Of an architecture with k, an integer; else three significant digits."""
    near = nearest(rows, theirs)
    if near is None or abs(deviation(near, theirs)) <= GOAL:
        return None
    points = {row["sparsity"]: row["l0"] for row in pool(rows, theirs)}
    wanted = sparsity_at(theirs["l0"], list(points.items()))
    by_k = theirs["architecture"] in BY_K
    sparsity = float(max(1, round(wanted)) if by_k else f"{wanted:.3g}")
    return None if sparsity in points else Run(OURS, theirs["architecture"], sparsity, theirs["seed"])


def sparsity_at(l0: float, points: list[tuple[float, float]]) -> float:
    """Where the line through the two of `points`, (sparsity, L0), around `l0` meets it; through the two nearest where all lie on
    one side."""
    by_distance = sorted(points, key=lambda point: abs(math.log(point[1] / l0)))
    below, above = ([p for p in by_distance if p[1] < l0], [p for p in by_distance if p[1] >= l0])
    (s_1, l0_1), (s_2, l0_2) = (below[0], above[0]) if below and above else by_distance[:2]
    share = math.log(l0 / l0_1) / math.log(l0_2 / l0_1)
    return s_1 * (s_2 / s_1) ** share
