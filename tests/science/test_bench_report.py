"""What RESULTS.md says of made-up results: marks, bars on our own numbers, what is missing, how old a guard is."""

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from bench import absolute, allocator_marks, contenders, coverage, notes, report, rounds
from bench.gpu_suites import gpu_suites
from bench.quality import frontier
from bench.setting import SHAPES, Shape, Spec, settings_of
from bench.suites import all_suites

INSTALLED = ", allocator=default"


def record(name: str, us: dict[str, list[float]], **more: Any) -> dict[str, Any]:
    """Of a suite: contenders' times by round. Peers with the setting keep freed memory."""
    made = {
        label: {
            "us_per_token": values, "wall_us_per_token": values, "peak_rss_bytes": 1e9, "mse_before": 1.0, "mse_by_round": [],
            "steps_per_round": 1, "config": {}, "keeps_freed_memory": INSTALLED not in label,
        }
        for label, values in us.items()
    }  # fmt: skip
    common = {
        "name": name, "title": f"title of {name}", "device": "cpu", "n_rounds": len(next(iter(us.values()))), "threads": 1,
        "clock": "processor time", "date": "2026-01-02", "load": 1.0, "pairs": [], "alike": [], "architecture": "topk",
        "target_l0": None, "shape": asdict(SHAPES["S"]), "contenders": made, "limits": [],
        "machine": {"cpu": "c", "n_cores": 2, "memory_gb": 3, "device": "d", "python": "3", "torch": "2"},
    }  # fmt: skip
    return common | more


def pair(what: str, slower: str, faster: str, bar: float = 0) -> dict[str, Any]:
    return {"what": what, "slower": slower, "faster": faster, "bar": bar}


def test_rows_say_how_the_peer_ran_unless_their_name_does():
    labels = [f"peer{INSTALLED}", "peer", "six SAEs, trainer=SAELens", "six SAEs", "raw file", "our ring"]
    one = record("B12-shuffle-4k", dict.fromkeys(labels, [2.0] * 5))
    marks = [allocator_marks.mark(one, pair("x", label, "our ring")) for label in labels]
    kept = " (peer with our allocator's setting)"
    assert marks == [" (peer as installed)", kept, kept, "", "", ""]
    assert allocator_marks.mark(one, pair("peer as installed, our best", labels[0], "our ring")) == ""
    assert allocator_marks.mark(one, pair("peer with our allocator's setting", "peer", "our ring")) == ""
    assert allocator_marks.mark(one | {"device": "cuda"}, pair("x", labels[0], "our ring")) == ""
    one["pairs"] = [pair("x", labels[0], "our ring", 1)]
    assert "| x (peer as installed) | 1.00 (1.00 to 1.00) | 1 | passed |" in "\n".join(report.bars([one], "## Bars"))


def test_every_committed_row_against_a_peer_says_how_it_ran():
    for one in report.read():
        for compared in one["pairs"]:
            if one["device"] == "cpu" and allocator_marks.is_peer(compared["slower"]):
                words = compared["what"] + allocator_marks.mark(one, compared)
                how = "as installed" if INSTALLED in compared["slower"] else "our allocator's setting"
                assert how in words, (one["name"], compared["what"])


def test_the_paragraph_names_the_suites_of_either_way():
    us, ring = [1.0] * 5, "our ring"
    some = [pair("x", "peer", ring)]
    records = [
        record("A", {ring: us, f"delphi cache{INSTALLED}": us}, pairs=some),
        record("B", {ring: us, f"peer{INSTALLED}": us, "peer": us}, pairs=some),
        record("C", {"six SAEs": us, "six SAEs, trainer=SAELens": us}, pairs=some),
        record("D", {ring: us, "encode only": us}, pairs=some),
        record("E", {ring: us, "peer": us}),  # equal training: no times are compared
    ]
    text = allocator_marks.paragraph(records)
    assert "As installed alone: `A`. Both ways: `B`. With the setting alone: `C`." in text
    assert "as installed 1.00 GB" in text and "after a run in which every peer had the setting and missed bars were seen" in text


def test_what_has_no_peer_is_held_to_a_time_and_a_memory():
    suite = next(suite for suite in all_suites() if suite.name == "B17-neighbours")
    (limit,), (spec,) = suite.limits, suite.specs
    assert limit.contender == spec.label and (limit.wall_s, limit.peak_gb) == (60, 2)
    assert (spec.shape.n_features, spec.shape.d_model, spec.threads) == (65_536, 576, 2)
    assert suite.with_rooflines() == suite.specs  # no training step: the encoder's product is no limit of it

    def line(seconds: list[float], gigabytes: float = 1.9) -> str:
        one = record(suite.name, {spec.label: [1e6 * one / spec.shape.batch for one in seconds]}, limits=[asdict(limit)])
        one["contenders"][spec.label]["peak_rss_bytes"] = gigabytes * 1e9
        (found,) = absolute.rows([one])
        return found.line()

    assert line([59.0] * 5).endswith("| 59.00 (59.00 to 59.00) s, 1.90 GB | at most 60 s, 2 GB | passed |")
    assert line([61.0] * 5).endswith("| **missed** |") and line([59.0] * 5, 2.1).endswith("| **missed** |")
    assert line([41.0, 50.0, 64.0]).endswith("| passed, 1 of 3 rounds above the bar, 3 rounds |")


@pytest.mark.parametrize(("ring", "mark"), [(1.9, "passed"), (2.1, "**missed**")])
def test_the_ring_is_held_to_its_own_time(ring, mark):
    (row,) = absolute.rows([record("B12-shuffle-262k", {"our ring": [ring] * 5, "peer": [90.0] * 5})])
    assert (row.mark, row.found) == (mark, f"{ring:.2f} ({ring:.2f} to {ring:.2f}) us/token")


def test_one_precision_above_the_bar_is_a_miss_of_matryoshka_and_has_its_note():
    def made(name: str, float32: float, bfloat16: float) -> dict[str, Any]:
        return record(name, {"ours float32": [float32] * 5, "ours bfloat16": [bfloat16] * 5})

    batch = made("B05-batch-topk-S", 100.0, 50.0)
    for own, mark in (((114.0, 57.0), "passed"), ((116.0, 57.0), "**missed**"), ((114.0, 58.0), "**missed**")):
        records = [batch, made("B08-matryoshka-S", *own)]
        (row,) = absolute.rows(records)
        assert row.mark == mark and row.found == f"{own[0] / 100:.2f} float32, {own[1] / 50:.2f} bfloat16"
        assert (notes.NOTES[row.name, row.what] in report.page(records)) == (mark != "passed")
    assert absolute.rows([batch]) == []


def test_bytes_and_products_are_taken_from_what_results_hold():
    query = record("B16-query", {"our sorted file float32": [1.0] * 5, "delphi splits float32": [4.0] * 5})
    for one, size in zip(query["contenders"].values(), (6.1, 8.0), strict=True):
        one["config"]["bytes_per_non_zero"] = size
    (row,) = absolute.rows([query])
    assert (row.found, row.mark) == ("6.10 (delphi's splits 8.00)", "**missed**")
    us = {f"{who} {dtype}": [1.0] * 4 for who in ("our truncated forward", "encode only") for dtype in ("float32", "bfloat16")}
    harvest = record("B11-harvest", us)
    for label, one in harvest["contenders"].items():
        ours = label.startswith("our")
        one["config"] = {"blocks": 2, "model": {"n_embd": 10}} if ours else {"operations": 2 * 12 * 100 * 2 * 4}
    harvest["contenders"]["encode only bfloat16"]["us_per_token"] = [2.0] * 4
    rows = absolute.rows([harvest])
    assert [row.found.split()[0] for row in rows] == ["0.25", "0.50"]
    assert [row.mark for row in rows] == ["**missed**, 4 rounds", "passed, 4 rounds"]


def test_the_bar_on_memory_is_computed_from_what_its_test_allows():
    shape, text = SHAPES["S"], absolute.memory()
    allowed = 16 * shape.d_model + 64 * shape.k  # bytes a token: tests/science/test_step_memory.py
    assert f"{allowed / (2 * shape.n_features):.2f} of 2 N F" in text and f"F {allowed / 0.2:,.0f} on" in text


def test_suites_without_a_result_and_ratios_without_one_are_listed():
    suites = [suite for suite in all_suites() if suite.name != "B12-shuffle-4M"]
    records = [
        record(suite.name, {"ours": [1.0] * 5}, pairs=[asdict(pair) for pair in suite.pairs if "encoder's" not in pair.what])
        for suite in suites
    ]
    text = "\n".join(coverage.section(records))
    assert "Suites without a result, for want of time: `B12-shuffle-4M`." in text
    assert f"{len(gpu_suites())} of {len(gpu_suites())} suites: `gpu" in text
    assert "after its result: `B14-statistics`, the encoder's product alone, bfloat16" in text
    assert "recorded only since" in text and text.count("all suites.") == 1
    for one in records:
        one["contenders"]["ours"]["spec"] = {}
    records[0]["contenders"]["ours"].pop("spec")
    assert f"(the other peers' are there, but of equal training: see Guards): `{suites[0].name}`." in "\n".join(
        coverage.section(records)
    )
    every = [record(suite.name, {"ours": [1.0]}, pairs=[asdict(pair) for pair in suite.pairs]) for suite in all_suites()]
    for one in every:
        one["contenders"]["ours"]["spec"] = {}
    text = "\n".join(coverage.section(every))
    assert "want of time: `" not in text and "after its result" not in text and "recorded only since" not in text


def test_guards_say_when_they_were_measured_and_of_which_commit():
    us = {"peer": [1.0] * 4, "ours": [1.0] * 4}
    old = record("parity-topk", us, alike=[pair("peer", "peer", "ours", 0.01)])
    for one in old["contenders"].values():
        one["mse_by_round"] = [1.0]
    text = "\n".join(report.guards([old]))
    assert "| passed | 2026-01-02 |" in text and "From before results held our commit" in text
    text = "\n".join(report.guards([old | {"commit": "0123456789abcdef"}]))
    assert "| passed | 2026-01-02 Commit 0123456789ab. |" in text and "From before" not in text


def test_headings_name_what_sets_the_sparsity_and_the_rate():
    one = record("B02-04-topk-S", {"ours": [1.0] * 5})
    assert ", k 32, N 1,024; 1 thread" in report.section(one)[2]
    one["contenders"]["ours"]["spec"] = Spec("ours", SHAPES["S"]).as_dict()
    assert ", k 32, N 1,024, learning rate 0.0001; 1 thread" in report.section(one)[2]
    for architecture, target, words in (
        ("relu_l1", 160, ", L0 160 to begin with, N"),
        ("jumprelu", 40, ", L0 40 to begin with, our form `step`, N"),
        ("relu_l1", None, ", penalty 0.1, N"),
    ):
        assert words in report.section(one | {"architecture": architecture, "target_l0": target})[2]
    remark = next(iter(notes.REMARKS.values()))
    assert remark in report.section(one | {"name": next(iter(notes.REMARKS)) + "x"}) and remark not in report.section(one)


def test_a_commit_is_shortened_and_what_is_none_is_not():
    assert rounds.short_commit("0123456789abcdef-dirty") == "0123456789ab-dirty"
    assert rounds.short_commit("not a git checkout") == "not a git checkout"
    assert frontier.source({"commit": "0123456789abcdef"}) == ", commit 0123456789ab"
    assert frontier.source({}) == ", written before our commit was recorded"


def test_settings_are_the_plain_values_of_a_peer(tmp_path):
    thing = SimpleNamespace(size=3, rate=0.5, name="x", on=True, none=None, model=object(), rows=[1])
    assert settings_of(thing) == {"size": 3, "rate": 0.5, "name": "x", "on": True, "none": None}
    shape = Shape("few", 8, 32, 2, 16)
    x_ND = contenders.initial_decoder(shape)[:, :8]
    spec = Spec("ours", shape, architecture="jumprelu", target_l0=4)
    assert contenders.Ours(spec, x_ND).config["jumprelu"] == {"form": "step", "threshold": 0.001, "bandwidth": 0.001}
