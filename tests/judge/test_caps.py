"""Money and concurrency: caps hold whoever asks at the same time, and no question is asked twice."""

import subprocess
import sys
import threading

import psutil
import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge.ledger import Entry, Outcome
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.reply import Usage
from sae_pipeline.judge.retry import Limits
from tests.judge.conftest import MODEL, question
from tests.judge.scripted import worst_usd


def test_requests_in_flight_never_exceed_the_limit(api, open_judge):
    api.delay = 0.02
    replies = open_judge(concurrency=5).ask([question(n) for n in range(30)])
    assert {reply.status for reply in replies} == {"ok"} and api.max_in_flight == 5


def test_the_cap_holds_under_concurrency_and_room_is_used_as_it_appears(api, open_judge):
    api.delay = 0.01
    probe = open_judge()
    worst = worst_usd(probe, question(0))
    judge = open_judge(cap_usd=2.5 * worst, concurrency=16)
    replies = judge.ask([question(n) for n in range(50)])
    statuses = [reply.status for reply in replies]
    assert api.max_in_flight <= 2  # two worst cases fit at once
    assert statuses.count("ok") > 10 and "budget" in statuses  # yet settled calls make room for many more
    assert judge.ledger.committed_usd() <= 2.5 * worst
    assert all(reply.value is None and reply.n_attempts == 0 for reply in replies if reply.status == "budget")


def test_a_run_has_its_own_cap(open_judge):
    probe = open_judge()
    cap = 1.5 * worst_usd(probe, question(0))
    first = open_judge(run_usd=cap, run_id="a", concurrency=1).ask([question(n) for n in range(60)])
    second = open_judge(run_usd=cap, run_id="b", concurrency=1).ask([question(n) for n in range(60)])
    n_first, n_second = (sum(reply.status == "ok" for reply in replies) for replies in (first, second))
    assert 0 < n_first < n_second and sum(reply.recorded for reply in second) == n_first


def test_a_question_that_a_dead_process_had_in_flight_is_asked_by_who_waits_for_it(api, open_judge):
    """It dies while the other one waits: the wait ends, and the lost call stays counted at its worst case."""
    judge = open_judge()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    judge.ledger.me = (process.pid, psutil.Process(process.pid).create_time())
    judge.ledger.open_attempt(Entry(question(), question().sha(judge.settings), 1000), "anthropic", judge.settings)
    threading.Timer(0.5, process.kill).start()
    (reply,) = open_judge(run_id="other", limits=Limits(deadline_seconds=30)).ask([question()])
    process.wait()
    assert reply.status == "ok" and reply.n_attempts == 2 and len(api.sent()) == 1


def test_a_cap_that_another_process_holds_for_a_moment_is_waited_for(api, open_judge):
    judge = open_judge()
    worst = worst_usd(judge, question())
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    judge.ledger.me = (process.pid, psutil.Process(process.pid).create_time())
    entry = Entry(question(), question().sha(judge.settings), round(worst * 1e9))
    attempt = judge.ledger.open_attempt(entry, "anthropic", judge.settings)
    threading.Timer(0.4, lambda: judge.ledger.close_attempt(attempt, Outcome("error", 0))).start()
    (reply,) = open_judge(cap_usd=1.5 * worst, run_id="other").ask([question(1)])
    process.kill()
    process.wait()
    assert reply.status == "ok" and judge.ledger.committed_usd() <= 1.5 * worst


def test_two_judges_never_ask_the_same_question_twice(api, open_judge):
    api.delay = 0.1
    results = {}

    def ask(name: str) -> None:
        results[name] = open_judge(run_id=name).ask([question(n) for n in range(6)])

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(api.sent()) == 6
    assert [r.value for r in results["a"]] == [r.value for r in results["b"]]


def test_worst_case_is_never_below_the_cost():
    price = price_of(MODEL)
    text = "ü漢字 \\x00 plain" * 400
    n_bytes = len(text.encode())
    for usage in (Usage(n_bytes, 300), Usage(0, 300, cache_write=n_bytes), Usage(0, 300, cache_read=n_bytes)):
        assert price.cost_nano(usage) <= price.worst_case_nano(n_bytes, 300)
    assert price.cost_nano(Usage(1_000_000, 0)) == 5 * 100_000_000  # above 100 k prompt tokens: five times the rate
    assert price.cost_nano(Usage(10_000, 1_000), batch=True) * 2 == price.cost_nano(Usage(10_000, 1_000))


def test_a_model_without_a_price_is_never_called():
    with pytest.raises(UserError, match=r"judge\.prices"):
        price_of("claude-unheard-of")
    own = price_of("claude-unheard-of", {"claude-unheard-of": {"input": 1.0, "output": 2.0}})
    assert own.cache_write == 2.0 and own.batch_factor == 1.0
