"""SIGKILL in the middle of a run, then another run: nothing that was answered is asked again, nothing is paid twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from sae_pipeline.judge.calls import read_calls
from sae_pipeline.judge.ledger import Ledger
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.request import Settings, wire_bytes
from tests.judge.client import ask
from tests.judge.conftest import HOSTED, MODEL, question

N = 12
MESSAGES, BATCHES = ("POST", "/v1/messages"), ("POST", "/v1/messages/batches")


def results(path: str) -> bool:
    return path.endswith("/results")


def killed_at(api, tmp_path: Path, backend: str, hook: str, where, count: int) -> None:
    """Run the client and kill it when `hook` sees the `count`-th request that `where` accepts; or let it die where it is told."""
    seen = 0
    command = [sys.executable, "-m", "tests.judge.client", backend, api.url, str(tmp_path), str(N)]
    if hook == "itself":
        client = subprocess.run(command, env=os.environ | {"DIE_AT": where}, timeout=60, check=False)
        assert client.returncode == -signal.SIGKILL
        return
    client = subprocess.Popen(command)

    def kill(method: str, path: str) -> None:
        nonlocal seen
        seen += where(method, path)
        if seen == count and client.poll() is None:
            client.send_signal(signal.SIGKILL)
            client.wait()

    setattr(api, hook, kill)
    assert client.wait(timeout=60) == -signal.SIGKILL
    api.on_arrival = api.on_done = None


POINTS = [
    ("anthropic", "itself", "first connection", 1),
    ("anthropic", "on_arrival", lambda m, p: (m, p) == MESSAGES, 1),
    ("anthropic", "on_arrival", lambda m, p: (m, p) == MESSAGES, 5),
    ("anthropic", "on_done", lambda m, p: (m, p) == MESSAGES, 7),
    ("anthropic", "on_done", lambda m, p: (m, p) == MESSAGES, N),
    # The intent is on disk and nothing was sent; sent and not made; made and not confirmed.
    ("anthropic-batch", "itself", "first connection", 1),
    ("anthropic-batch", "on_arrival", lambda m, p: (m, p) == BATCHES, 1),
    ("anthropic-batch", "on_done", lambda m, p: (m, p) == BATCHES, 1),
    ("anthropic-batch", "on_arrival", lambda m, p: m == "GET" and not results(p), 1),
    ("anthropic-batch", "on_done", lambda m, p: m == "GET" and not results(p), 2),
    ("anthropic-batch", "on_arrival", lambda m, p: results(p), 1),
    ("anthropic-batch", "on_done", lambda m, p: results(p), 1),
    # Three of the answers are written, the transaction is not at its end.
    ("anthropic-batch", "itself", "third outcome", 1),
]
QUICK_POINTS = (3, 7, 12)


@pytest.mark.parametrize(
    "point",
    [pytest.param(n, id=f"quick-{n}") for n in QUICK_POINTS]
    + [pytest.param(n, marks=pytest.mark.long) for n in range(len(POINTS))],
)
def test_killed_and_run_again(api, tmp_path, point):
    backend, hook, where, count = POINTS[point]
    killed_at(api, tmp_path, backend, hook, where, count)
    before = read_calls(tmp_path)
    if where == "first connection":
        assert before.height > 0 and not api.log
    if where == "third outcome":
        assert set(before["status"]) == {"not_run"}
    answered = set(before.filter(status="ok")["request_sha"])
    in_flight = set(before.filter(status="not_run")["request_sha"])
    assert len(answered) + len(in_flight) <= N
    n_before = len(api.sent())

    replies = ask(backend, api.url, tmp_path, N)
    assert [reply.status for reply in replies] == ["ok"] * N
    assert {reply.request_sha for reply in replies if reply.recorded} >= answered
    if backend == "anthropic":
        assert len(api.sent()) - n_before == N - len(answered)
        # What was in flight may have been billed, so it stays counted at its worst case.
        lost = read_calls(tmp_path).filter(status="error")
        assert set(lost["request_sha"]) == in_flight and (lost["cost_usd"] == lost["reserved_usd"]).all()
        assert len(in_flight) <= 3
    else:
        assert len(api.batches.made) == 1 and set(api.billed.values()) == {1}

    uninterrupted = ask(backend, api.url, tmp_path / "another", N)
    assert [reply.value for reply in replies] == [reply.value for reply in uninterrupted]


def test_two_processes_share_questions_and_cap(api, tmp_path):
    """Both ask the same; no question is sent twice, and what both have in flight together never exceeds the cap."""
    api.delay = 0.05
    settings = Settings(MODEL, HOSTED, api.url)
    worst = price_of(MODEL).worst_case_nano(wire_bytes(question(0).wire(settings)), question(0).max_tokens) / 1e9
    cap = 3.5 * worst
    command = [sys.executable, "-m", "tests.judge.client", "anthropic", api.url, str(tmp_path), "40", str(cap)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    calls = read_calls(tmp_path)
    asked = [json.dumps(body, sort_keys=True) for body in api.sent()]
    assert len(asked) == len(set(asked)) == calls.height > 12  # room appears as calls settle
    assert api.max_in_flight <= 3 and calls["cost_usd"].sum() <= cap
    assert set(calls["status"]) == {"ok"}


def test_the_ledger_only_grows(api, tmp_path):
    ask("anthropic", api.url, tmp_path, 1)
    from sae_pipeline.judge.ledger import Caps

    with Ledger(tmp_path, "run", Caps(1.0)) as ledger:
        for statement in ("UPDATE outcome SET cost_nano = 0", "DELETE FROM attempt"):
            with pytest.raises(Exception, match="only grows"):
                ledger.execute(statement)


@pytest.mark.long
@pytest.mark.parametrize("count", [3, 20, 60, 90])
def test_killed_stages_run_again_make_the_same_tables(api, folders, embedder, tmp_path, monkeypatch, count):
    """The stages themselves, with explanations, windows and tables, killed at the given question."""
    from tests.judge.oracle import oracle
    from tests.judge.test_judged import KEY, build, section

    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    api.answer = oracle
    seen = 0
    command = [sys.executable, "-m", "tests.judge.stage_client", api.url, str(folders.corpus.parent), str(tmp_path / "study")]
    client = subprocess.Popen([*command, str(tmp_path / "dead")])

    def kill(method: str, path: str) -> None:
        nonlocal seen
        seen += (method, path) == MESSAGES
        if seen == count and client.poll() is None:
            client.send_signal(signal.SIGKILL)
            client.wait()

    api.on_done = kill
    assert client.wait(timeout=200) == -signal.SIGKILL
    api.on_done = None
    calls = read_calls(tmp_path / "study" / "judge")
    answered = set(calls.filter(status="ok")["request_sha"])
    assert len(answered) >= count - 3
    n_before = len(api.sent())
    build(folders, embedder, tmp_path / "study", tmp_path / "resumed", section(api))
    n_resumed = len(api.sent()) - n_before
    build(folders, embedder, tmp_path / "other", tmp_path / "whole", section(api))
    n_whole = len(api.sent()) - n_before - n_resumed
    assert n_resumed == n_whole - len(answered)  # nothing that was answered is asked again
    for name in ("explanations/explanations", "explanations/explanation_score_summaries", "scores/specificity_scores"):
        resumed, whole = (pl.read_parquet(tmp_path / which / f"{name}.parquet") for which in ("resumed", "whole"))
        # What was lost on the way may have been billed: its cost stays counted, everything else is the same.
        cost = [column for column in resumed.columns if column == "cost_usd"]
        assert resumed.drop(cost).equals(whole.drop(cost)), name
