"""A judge in the real graph on the tiny model: from the study through the assets to the database; the key goes nowhere."""

from collections.abc import Iterator

import dagster as dg
import duckdb
import polars as pl
import pytest
import yaml

from sae_pipeline.plan import make_plan
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study
from tests.assembly.test_whole_graph import Copy
from tests.fakes.messages_api import FakeMessagesApi

SENTINEL = "sk-ant-sentinel-9876543210"


@pytest.fixture
def judged(finished_study, tmp_path) -> Iterator[tuple[Copy, FakeMessagesApi]]:
    """A finished study whose explanations and scores a judge is now to make as well."""
    with FakeMessagesApi(key=SENTINEL) as api, dg.DagsterInstance.ephemeral() as instance:
        copy = Copy(finished_study, tmp_path / "copy", instance)
        mapping = yaml.safe_load(copy.file.read_text(encoding="utf-8"))
        mapping["explain"] = {**mapping.get("explain", {}), "method": "llm", "n_judged": 3}
        mapping["score"] = {
            **mapping.get("score", {}),
            "method": "rubric",
            "n_features": 3,
            "n_controls": 2,
            "examples_per_interval": 1,
        }
        mapping["judge"] = {"backend": "anthropic", "model": "claude-haiku-5-5", "base_url": api.url, "budget_usd": 1.0}
        copy.file.write_text(yaml.safe_dump(mapping), encoding="utf-8")
        copy.store = ArtifactStore(load_study(copy.file), copy.root, copy.file)
        yield copy, api


def test_the_graph_asks_the_judge_and_the_key_is_nowhere(judged, monkeypatch, capfd):
    copy, api = judged
    monkeypatch.setenv("ANTHROPIC_API_KEY", SENTINEL)
    wanted = [("explanations", 32), ("specificity_scores", 32)]
    assert "estimated" in make_plan(copy.store, wanted).judge and not api.log
    assert "texts counted by" in make_plan(copy.store, wanted, count_tokens=True).judge
    assert api.log and {path for _, path, _ in api.log} == {"/v1/messages/count_tokens"}
    for stage in ("explanations", "specificity_scores", "analysis_tables"):
        report = copy.run(sizes=(32,), only=stage)
        assert not report.failed and report.executed == [(stage, None if stage == "analysis_tables" else 32)]
    n_sent = len(api.sent())
    assert n_sent > 40
    with duckdb.connect(str(copy.store.root / "analysis.duckdb"), read_only=True) as connection:
        query = "select stage, size, count(*), sum(cost_usd) > 0 from llm_calls group by all order by stage"
        calls = connection.sql(query).fetchall()
        assert [(stage, size, paid) for stage, size, _, paid in calls] == [
            ("explanations", 32, True), ("specificity_scores", 32, True),
        ]  # fmt: skip
        assert sum(n for _, _, n, _ in calls) == n_sent
        methods = connection.sql("select distinct method from specificity_scores where score is not null order by 1").fetchall()
        assert methods == [("proxy",), ("rubric-v1-of-llm-v1",)]
        # Answers at random: the judge fails its calibration.
        assert connection.sql("select size, passed from judge_calibration").fetchall() == [(32, False)]
    # Wherever the files of this study lie: artefacts, ledger, run storage, logs, and what was printed.
    found = [file for file in copy.root.parent.rglob("*") if file.is_file() and SENTINEL.encode() in file.read_bytes()]
    assert found == [] and SENTINEL not in "".join(capfd.readouterr())

    # Forced to do it all again, the graph sends nothing: every answer is in the ledger.
    report = copy.run(force=True, sizes=(32,), only="specificity_scores")
    assert not report.failed and len(api.sent()) == n_sent


def test_without_a_key_the_stage_completes_and_says_why(judged, monkeypatch):
    copy, api = judged
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    report = copy.run(sizes=(32,), only="explanations")
    assert not report.failed and not api.log
    explained = pl.read_parquet(copy.store.path("explanations", 32) / "explanations.parquet").filter(method="llm-v1")
    assert "not_run" in explained["status"] and "ok" not in explained["status"]
    monkeypatch.setenv("ANTHROPIC_API_KEY", SENTINEL)
    assert "judge key" in copy.store.freshness("explanations", 32).why
