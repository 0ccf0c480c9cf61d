"""What the page does not have: suites without a result, ratios younger than the result of their suite, what was never written."""

from typing import Any

from bench.gpu_suites import gpu_suites
from bench.suite import Suite
from bench.suites import all_suites

# Defined beforehand, and there is no suite for it.
NO_SUITE = (
    "a second run on two threads (defined for a load below 1, which the machine never had)",
    "OpenMOSS's passes beside delphi's in feature statistics (not written for want of time)",
    "OpenAI's trainer (it was to be measured on a GPU alone)",
    "the encode-only floor at shape M and at N 16,384 and 65,536 (no time)",
    "pairs out of one context in a shuffled batch (training measures and publishes them: docs/training.md)",
    "a step on two ranks against one (training runs on one device: docs/scale.md)",
    "the optimizer alone (on a CPU ours is PyTorch's fused Adam, which it was to be compared with)",
    "which features bfloat16 products select against exact ones, on real activations (next stage)",
)


def section(records: list[dict[str, Any]]) -> list[str]:
    """Lines of RESULTS.md."""
    by_name = {record["name"]: record for record in records}
    lines = ["## Not measured", ""]
    if missing := without(all_suites(), by_name):
        lines += [f"Suites without a result, for want of time: {', '.join(missing)}. `python -m bench --only NAME` runs one.", ""]
    on_gpu = gpu_suites()
    if missing := without(on_gpu, by_name):
        lines += [
            f"Without a result because no GPU was at hand (`python -m bench --device cuda`), {len(missing)} of {len(on_gpu)} "
            f"suites: {', '.join(missing)}.", "",
        ]  # fmt: skip
    if younger := [ratio for suite in (*all_suites(), *on_gpu) for ratio in not_in(suite, by_name.get(suite.name))]:
        lines += [f"Ratios that a suite was given after its result: {'; '.join(younger)}.", ""]
    if older := [f"`{record['name']}`" for record in records if not whole(record)]:
        names = "all suites" if len(older) == len(records) else ", ".join(older)
        lines += [
            "Not in results because it is recorded only since: our learning rate, and the whole configurations of sae-dashboard "
            f"and delphi (the other peers' are there, but of equal training: see Guards): {names}.", "",
        ]  # fmt: skip
    return [*lines, f"In the definitions of the benchmarks, and without a suite: {'; '.join(NO_SUITE)}.", ""]


def without(suites: list[Suite], by_name: dict[str, Any]) -> list[str]:
    """Names of those that have no result."""
    return [f"`{suite.name}`" for suite in suites if suite.name not in by_name]


def not_in(suite: Suite, record: dict[str, Any] | None) -> list[str]:
    """Ratios with a bar that the suite takes and its result lacks."""
    there = {pair["what"] for pair in record["pairs"]} if record else set()
    return [f"`{suite.name}`, {pair.what}" for pair in suite.pairs if record and pair.bar and pair.what not in there]


def whole(record: dict[str, Any]) -> bool:
    """Whether every contender's own specification is in the result."""
    return all("spec" in one for one in record["contenders"].values())
