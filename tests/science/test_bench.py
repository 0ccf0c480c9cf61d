"""The benchmarks run (how fast is not looked at here), and RESULTS.md is what its results say."""

import json

import numpy as np
import pytest

from bench import absolute, allocator_marks, notes, passes, queries, report, rounds, step_suites, stores, worker
from bench.__main__ import main
from bench.contenders import L1
from bench.gpu_suites import gpu_suites
from bench.quality import frontier
from bench.setting import SHAPES, Shape, Spec, data_file, spec_of
from bench.suites import all_suites
from sae_pipeline.allocator import keep_freed_memory
from sae_pipeline.errors import UserError


def test_results_page_is_that_of_the_results():
    assert report.PAGE.read_text(encoding="utf-8") == report.page(report.read(), frontier.read())


def test_results_of_a_suite_that_is_gone_are_named(tmp_path, monkeypatch):
    (tmp_path / "old.json").write_text(json.dumps({"name": "B99-gone"}), encoding="utf-8")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"old\.json: is a result of suite B99-gone.* Delete the file"):
        report.read()


def test_suites_compare_contenders_that_they_have():
    suites = [*all_suites(), *gpu_suites()]
    assert len({suite.name for suite in suites}) == len(suites)
    for suite in suites:
        labels = [spec.label for spec in suite.specs]
        assert len(set(labels)) == len(labels)
        assert {pair.slower for pair in suite.pairs} | {pair.faster for pair in suite.pairs} <= set(labels), suite.name
        assert len({spec.shape for spec in suite.specs}) == 1


def test_notes_are_about_bars_and_stand_beside_those_that_were_missed():
    own = {(row.name, row.what) for row in absolute.rows(report.read())}
    assert set(notes.NOTES) <= own | {(suite.name, pair.what) for suite in all_suites() for pair in suite.pairs if pair.bar}
    names = [suite.name for suite in (*all_suites(), *gpu_suites())]
    assert all(any(name.startswith(begin) for name in names) for begin in notes.REMARKS)
    record = next(record for record in report.read() if record["name"] == "B09-floor-S")
    note = notes.NOTES["B09-floor-S", record["pairs"][0]["what"]]
    for bar, is_there in ((1.0, True), (0.01, False)):
        missed = record | {"pairs": [record["pairs"][0] | {"bar": bar}]}
        assert (note in report.page([missed])) == is_there


def test_a_ratio_against_a_peer_without_our_allocator_is_not_final_unless_the_row_says_so():
    record = next(record for record in report.read() if record["name"] == "B12-shuffle-262k")
    pair = next(pair for pair in record["pairs"] if pair["bar"])
    installed = pair["slower"]
    given = installed.removesuffix(", allocator=default")
    assert given != installed
    for kept, label, mark in (
        (False, given, f"not final, {allocator_marks.WITHOUT}"),
        (True, given, "passed"),
        (False, installed, "passed"),
    ):
        contenders = record["contenders"] | {label: record["contenders"][installed] | {"keeps_freed_memory": kept}}
        changed = record | {"contenders": contenders, "n_rounds": 5, "pairs": [pair | {"slower": label}]}
        (line,) = [line for line in report.bars([changed], "") if pair["what"] in line]
        assert line.endswith(f"| {pair['bar']} | {mark} |")


def test_a_peer_as_installed_does_not_keep_freed_memory(monkeypatch):
    served = []
    monkeypatch.setattr("bench.serve.serve", lambda spec, data, cpus, kept: served.append(kept))
    monkeypatch.setattr(worker, "keep_freed_memory", lambda: True)
    for options in (None, {"fused": True}, step_suites.INSTALLED):
        worker.main(json.dumps(Spec("sparsify", SHAPES["T"], options=options).as_dict()), "", "")
    assert served == [True, True, False]


def test_without_a_gpu_its_benchmarks_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["bench", "--device", "cuda"])
    with pytest.raises(SystemExit):
        main()
    assert "--device cuda: no CUDA device here" in capsys.readouterr().err


def test_our_contenders_run_and_start_from_equal_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "ENVIRONMENTS", tmp_path)  # no peers: this interpreter
    monkeypatch.setattr(rounds, "STEP_SECONDS", 0.01)
    shape = SHAPES["T"]
    common = {"architecture": "relu_l1", "target_l0": 40}
    specs = [Spec("ours", shape, **common), Spec("ours", shape, **common, options={"form": "dense"}), Spec("encode only", shape)]
    record = rounds.compare(specs, 2, tmp_path, cpus="", parity_steps=3)
    sparse, dense, encode = (record["contenders"][spec.label] for spec in specs)
    assert all(len(one["us_per_token"]) == 2 and min(one["us_per_token"]) > 0 for one in (sparse, dense, encode))
    assert sparse["mse_before"] == pytest.approx(dense["mse_before"], rel=1e-5) and encode["mse_before"] is None
    assert sparse["mse_by_round"] == pytest.approx(dense["mse_by_round"], rel=1e-3)
    assert sparse["mse_before"] > sparse["mse_by_round"][0] > sparse["mse_by_round"][1]
    assert sparse["keeps_freed_memory"] == dense["keeps_freed_memory"] == keep_freed_memory()
    assert spec_of(sparse["spec"]) == specs[0] and sparse["config"]["penalty"] == L1
    assert rounds.ratios(record, specs[1].label, specs[0].label)[0] > 0
    pair = {"what": "dense", "slower": specs[1].label, "faster": specs[0].label, "bar": 1e9}
    machine = {"cpu": "c", "n_cores": 2, "memory_gb": 3, "device": "d", "python": "3", "torch": "2"}
    facts = {
        "name": "a",
        "commit": "0123456789abcdef-dirty",
        "title": "A",
        "n_rounds": 2,
        "load": 0.0,
        "date": "x",
        "machine": machine,
        "pairs": [pair],
    }
    alike = [{"what": "itself", "slower": specs[1].label, "faster": specs[0].label, "bar": 0.01}]
    text = report.page([json.loads(json.dumps(record | facts | {"alike": alike}))])
    assert "## Bars\n" in text and "Bars on a GPU" not in text
    contenders = {label: one | {"peak_device_bytes": 7e9} for label, one in record["contenders"].items()}
    both = report.page([record | facts, record | facts | {"device": "cuda", "contenders": contenders}])
    assert both.count("## Bars on a GPU\n") == 1 and " 7.00 |" in both
    assert "Commit 0123456789ab-dirty." in text and "| **missed**, 2 rounds |" in text
    assert "| A | dense |" in text and "| ours float32 |" in text
    assert "| A | itself | 0.0" in text and "float32 product" in text


def test_our_statistics_are_those_of_the_dense_latents(tmp_path, monkeypatch):
    monkeypatch.setattr(passes.tempfile, "tempdir", str(tmp_path))
    shape = SHAPES["T"]
    x_ND = np.load(data_file(tmp_path, shape))
    contender = passes.OurStatistics(Spec("our statistics", shape), x_ND)
    dense_NF = np.zeros((len(x_ND), shape.n_features), np.float32)
    for first, (feature_NK, value_NK) in zip(range(0, len(x_ND), shape.batch), contender._latents.codes, strict=True):
        np.put_along_axis(dense_NF[first : first + shape.batch], feature_NK.long().numpy(), value_NK.numpy(), axis=1)
    by_document = dense_NF.reshape(-1, passes.DOCUMENT, shape.n_features).max(1)
    top_F = np.sort(by_document, axis=0)[::-1][: passes.N_TOP].sum(0)
    expected = passes.checksum((dense_NF > 0).sum(0), dense_NF.max(0), top_F)
    assert contender.mse(x_ND) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["our shards", "raw file", "torch.save"])
def test_stores_give_back_what_they_were_given(tmp_path, monkeypatch, name):
    monkeypatch.setattr(stores.tempfile, "tempdir", str(tmp_path))
    shape = SHAPES["T"]
    x_ND = np.load(data_file(tmp_path, shape))
    for way in ("write", "read"):
        store = stores.STORES[name](Spec(name, shape, options={"way": way}), x_ND)
        expected = stores.N_SHARDS * np.abs(x_ND, dtype=np.float64).sum()
        for _ in range(2 * len(x_ND) // shape.batch * stores.N_SHARDS):
            store.step(x_ND)
        assert store.mse(x_ND) == pytest.approx(expected, rel=1e-9)
        assert np.array_equal(
            np.concatenate([batch_ND.numpy() for batch_ND in store.batches()]), np.tile(x_ND, (stores.N_SHARDS, 1))
        )


def test_the_query_finds_the_strongest_of_every_feature(tmp_path, monkeypatch):
    monkeypatch.setattr(queries.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(queries, "PASS_BATCHES", 12)
    shape = SHAPES["T"]
    spec, x_ND = Spec("our sorted file", shape), np.load(data_file(tmp_path, shape))
    by_feature: dict[int, list[float]] = {}
    for feature_NK, value_NK in queries._batches(spec, x_ND):
        for feature, value in zip(feature_NK.ravel().tolist(), value_NK.ravel().tolist(), strict=True):
            by_feature.setdefault(feature, []).append(value)
    expected = sum(sum(sorted(values)[-queries.N_TOP :]) for values in by_feature.values())
    found = queries.OurQuery(spec, x_ND)
    assert found.mse(x_ND) == pytest.approx(expected, rel=1e-6) and found.config["non_zeros"] == 12 * shape.batch * shape.k


def test_the_neighbour_search_runs_as_a_contender(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "ENVIRONMENTS", tmp_path)
    spec = Spec("our neighbour search", Shape("few", 64, 600, 1, 64), threads=2)
    record = rounds.compare([spec], 2, tmp_path, cpus="", n_steps=1)
    one = record["contenders"][spec.label]
    assert record["threads"] == 2 and record["clock"] == "wall time" and min(one["wall_us_per_token"]) > 0
    assert 0 < one["mse_before"] < 512 * 15


def test_a_suite_whose_guard_fails_is_named_and_the_others_are_measured(tmp_path, monkeypatch, capsys):
    suites = [suite for suite in all_suites() if suite.name in ("B09-floor-S", "B16-query")]

    def run(suite, *_):
        if suite.name == "B09-floor-S":
            raise RuntimeError("other weights")
        return {"name": suite.name}

    monkeypatch.setattr("bench.__main__.run", run)
    monkeypatch.setattr("bench.__main__.all_suites", lambda: suites)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "write", lambda: None)
    monkeypatch.setattr("sys.argv", ["bench"])
    with pytest.raises(SystemExit, match="not measured: B09-floor-S"):
        main()
    assert [file.name for file in tmp_path.iterdir()] == ["B16-query.json"]
    assert "B09-floor-S: other weights" in capsys.readouterr().out
