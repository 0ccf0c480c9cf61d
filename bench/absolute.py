"""Bars on our own numbers, computed from the results: what has no peer, or has a bar beside the peer's."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.rounds import ratios, summary
from bench.scale import Scale
from bench.setting import SHAPES

ROUNDS = 5  # fewer are marked
RING_US, BYTES_PER_NON_ZERO, MATRYOSHKA_SHARE, PRODUCT_SHARE, MEMORY_SHARE = 2, 6, 1.15, 0.45, 0.1
OWN_TIME = "own time over BatchTopK's, medians of separate suites"


@dataclass(frozen=True)
class Row:
    """One line of the table of bars. `ran`: how the peer ran. `note_values`: what the note behind a miss may name."""

    name: str
    title: str
    what: str
    found: str
    bar: str
    mark: str
    ran: str = ""
    note_values: tuple[float, ...] = ()

    def line(self) -> str:
        """Markdown."""
        return f"| {self.title} | {self.what}{self.ran} | {self.found} | {self.bar} | {self.mark} |"


def few(record: dict[str, Any]) -> list[str]:
    """A mark on results of fewer rounds than were asked for."""
    return [f"{record['n_rounds']} rounds"] * (record["n_rounds"] < ROUNDS)


def held(values: list[float], at_most: float) -> list[str]:
    """The median decides; rounds on the other side of the bar are counted."""
    above = sum(value > at_most for value in values)
    if median(values) > at_most:
        return ["**missed**"]
    return ["passed", *[f"{above} of {len(values)} rounds above the bar"] * (above > 0)]


def rows(records: list[dict[str, Any]]) -> list[Row]:
    """All of them whose results are there."""
    by_name = {record["name"]: record for record in records}
    found = [row for record in records for row in limits(record)]
    if "B11-harvest" in by_name:
        found += product_shares(by_name["B11-harvest"])
    if "B12-shuffle-262k" in by_name:
        found.append(ring(by_name["B12-shuffle-262k"]))
    if {"B05-batch-topk-S", "B08-matryoshka-S"} <= set(by_name):
        found.append(matryoshka(by_name["B08-matryoshka-S"], by_name["B05-batch-topk-S"]))
    if "B16-query" in by_name:
        found.append(bytes_on_disk(by_name["B16-query"]))
    return found


def limits(record: dict[str, Any]) -> list[Row]:
    """The time and the memory of a whole step that no peer does."""
    made: list[Row] = []
    for limit in record.get("limits", ()):
        one = record["contenders"][limit["contender"]]
        seconds = [us * record["shape"]["batch"] / 1e6 for us in one["wall_us_per_token"]]
        gigabytes = one["peak_rss_bytes"] / 1e9
        mark = held(seconds, limit["wall_s"]) if gigabytes <= limit["peak_gb"] else ["**missed**"]
        what, found = f"{limit['what']}, {record['threads']} threads", f"{summary(seconds)} s, {gigabytes:.2f} GB"
        bar = f"at most {limit['wall_s']:g} s, {limit['peak_gb']:g} GB"
        made.append(Row(record["name"], record["title"], what, found, bar, ", ".join([*mark, *few(record)])))
    return made


def product_shares(record: dict[str, Any]) -> list[Row]:
    """B11: the blocks' products (12 D² weights each; attention is not counted) a second, as a share of one product alone."""
    made: list[Row] = []
    for dtype in ("float32", "bfloat16"):
        ours, product = f"our truncated forward {dtype}", f"encode only {dtype}"
        config = record["contenders"][ours]["config"]
        operations = 2 * 12 * config["model"]["n_embd"] ** 2 * config["blocks"]
        more_work = operations / record["contenders"][product]["config"]["operations"]
        shares = [more_work * ratio for ratio in ratios(record, product, ours)]
        mark = ", ".join(["passed" if median(shares) >= PRODUCT_SHARE else "**missed**", *few(record)])
        what = f"our forward's products a second, as a share of the roofline's, {dtype}"
        made.append(Row(record["name"], record["title"], what, summary(shares), str(PRODUCT_SHARE), mark))
    return made


def ring(record: dict[str, Any]) -> Row:
    """B12: a batch from our ring."""
    us = next(one["us_per_token"] for label, one in record["contenders"].items() if label.startswith("our ring"))
    mark = ", ".join([*held(us, RING_US), *few(record)])
    return Row(record["name"], record["title"], "our ring alone", f"{summary(us)} us/token", f"at most {RING_US}", mark)


def matryoshka(record: dict[str, Any], batch_topk: dict[str, Any]) -> Row:
    """B08: no common rounds, so two medians are divided."""
    own, other = (
        [median(one["contenders"][f"ours {dtype}"]["us_per_token"]) for dtype in ("float32", "bfloat16")]
        for one in (record, batch_topk)
    )
    shares = [a / b for a, b in zip(own, other, strict=True)]
    mark = "passed" if max(shares) <= MATRYOSHKA_SHARE else "**missed**"
    return Row(
        record["name"], record["title"], OWN_TIME, f"{shares[0]:.2f} float32, {shares[1]:.2f} bfloat16",
        f"at most {MATRYOSHKA_SHARE}", ", ".join([mark, *few(record)]),
    )  # fmt: skip


def bytes_on_disk(record: dict[str, Any]) -> Row:
    """B16: an activation in our file, beside delphi's splits."""
    ours, delphi = (
        next(one["config"]["bytes_per_non_zero"] for label, one in record["contenders"].items() if label.startswith(begin))
        for begin in ("our sorted file", "delphi splits")
    )
    mark = "passed" if ours <= BYTES_PER_NON_ZERO else "**missed**"
    found = f"{ours:.2f} (delphi's splits {delphi:.2f})"
    return Row(record["name"], record["title"], "bytes of an activation on disk", found, f"at most {BYTES_PER_NON_ZERO}", mark)


def memory() -> str:
    """The bar on memory: a test, not a suite, and what that test holds a step to."""
    shape = SHAPES["S"]
    dense = 2 * shape.batch * shape.n_features
    bound = Scale(shape.d_model, shape.n_features, 0, shape.k, shape.batch).step_bytes / dense
    error = 4 * shape.batch * shape.d_model / dense
    enough = (16 * shape.d_model + 64 * shape.k) / (2 * MEMORY_SHARE)
    return (
        f"Memory of a step (bar: at most {MEMORY_SHARE} of 2 N F bytes beside parameters and optimizer) has no suite. "
        "`tests/science/test_step_memory.py` holds a TopK and a BatchTopK step to N (16 D + 64 k) bytes beside gradients and "
        "their sums over tokens (docs/training.md), bfloat16 copies, and one tile of pre-activations of a fixed size that is "
        f"there before it. That does not grow with F, and so is below the bar from F {enough:,.0f} on at the width and k of "
        f"shape S. At shape S itself it is {bound:.2f} of 2 N F, and the bar is **missed** there: the error alone, one N x D "
        f"array of float32, is {error:.2f}."
    )
