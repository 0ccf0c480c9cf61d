"""Which comparisons are made, in which order."""

from bench.setting import SHAPES, Shape
from bench.step_suites import FVU, UNIT_ROWS, batch_topk, crossover, dead, floor, other, parity, relu_l1, topk
from bench.stream_suites import dashboards, harvest, neighbours, query, shuffle, six, statistics, store
from bench.suite import Suite


def all_suites() -> list[Suite]:
    """In the order in which they run."""
    S, M = SHAPES["S"], SHAPES["M"]
    return [
        topk(S, "B02-04-topk-S", everything=True),
        topk(M, "B02-04-topk-M", everything=False),
        dead(S, "B02-04-topk-S-dead"),
        batch_topk(S, "B05-batch-topk-S"),
        relu_l1(S, "B06-relu-l1-40", 40, 4.5),
        relu_l1(S, "B06-relu-l1-160", 160, 3.5),
        relu_l1(S, "B06-relu-l1-640", 640, 1.5),
        other(S, "B07-jumprelu-S", "jumprelu", 5, target_l0=40),
        other(S, "B08-matryoshka-S", "matryoshka", 5),
        floor(S, "B09-floor-S"),
        floor(SHAPES["S4"], "B09-floor-S4"),
        *(crossover(S, l0) for l0 in (448, 640, 1024)),
        six(4096, 4),
        six(8192, 3),
        harvest(),
        shuffle(S, 4096, "B12-shuffle-4k"),
        shuffle(SHAPES["S4"], 262_144, "B12-shuffle-262k"),
        # At D 576 each contender would hold 10 GB or several times that.
        shuffle(Shape("narrow", 64, 1024, 8, 4096), 2**22, "B12-shuffle-4M"),
        store("write"),
        store("read"),
        statistics(),
        query(),
        dashboards(),
        neighbours(),
        parity("parity-topk", "topk", {"SAELens": {}, "dictionary_learning": UNIT_ROWS, "sparsify": UNIT_ROWS | FVU}),
        parity("parity-batch-topk", "batch_topk", {"SAELens": {}, "dictionary_learning": UNIT_ROWS}),
        parity("parity-relu-l1", "relu_l1", {"dictionary_learning": UNIT_ROWS | {"clips": False}}),
    ]
