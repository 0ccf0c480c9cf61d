import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import psutil
import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge.calls import read_calls
from sae_pipeline.judge.ledger import Entry, Outcome
from sae_pipeline.judge.prices import HIDDEN_INPUT_TOKENS, price_of
from sae_pipeline.judge.request import Capabilities, wire_bytes
from sae_pipeline.judge.retry import Limits
from tests.fakes.messages_api import Fault, error, message
from tests.judge.conftest import HOSTED, MODEL, QUICK, Verdict, question

GOOD = '{"evidence": "near", "score": 0}'
BILLED_USD = (100 * 0.10 + 10 * 0.50) / 1e6  # the scripted message's usage at the table's price
HTML = Fault(200, "<html>proxy</html>", media_type="text/html")
NULLS = Fault(200, {"id": "x"})
BROKEN = Fault(200, '{"id": "x", ', media_type="application/json")
EMPTY = Fault(200, b"", media_type="application/json")
DEEP = Fault(200, "[" * 200_000, media_type="application/json")
ZIPPED = Fault(200, b"no gzip at all", headers={"content-encoding": "gzip"})


def usage(**changed) -> Fault:
    """A message whose usage is not what usage can be."""
    fault = message(GOOD)
    assert isinstance(fault.body, dict)
    fault.body["usage"] = fault.body["usage"] | changed
    return fault


RESET = Fault(reset=True)
HALF = Fault(half=True)


def calls(tmp_path: Path) -> pl.DataFrame:
    return read_calls(tmp_path / "judge")


def worst_usd(judge, request) -> float:
    n_input = wire_bytes(request.wire(judge.settings)) + HIDDEN_INPUT_TOKENS
    return (n_input * 0.20 + request.max_tokens * 0.50) / 1e6


def test_an_answer_is_recorded_and_never_asked_again(api, open_judge, tmp_path):
    api.script = [message(GOOD)]
    (reply,) = open_judge().ask([question()])
    assert (reply.status, reply.value, reply.recorded, reply.n_attempts) == ("ok", Verdict(evidence="near", score=0), False, 1)
    assert reply.cost_usd == pytest.approx(BILLED_USD)
    (again,) = open_judge(run_id="another run").ask([question()])
    assert again.recorded and again.value.score == 0 and again.cost_usd == pytest.approx(BILLED_USD)
    assert len(api.sent()) == 1
    row = calls(tmp_path).row(0, named=True)
    assert row["status"] == "ok" and row["parsed"] == '{"evidence":"near","score":0}' and row["raw"] == GOOD
    assert (row["input_tokens"], row["output_tokens"]) == (100, 10)


def test_what_goes_over_the_wire(api, open_judge):
    open_judge().ask([question()])
    (body,) = api.sent()
    assert body["output_config"]["format"]["schema"]["properties"]["score"]["enum"] == [0, 1, 2, 3]
    assert "temperature" not in body and body["thinking"] == {"type": "disabled"}
    assert api.headers[0]["authorization"] == "Bearer sk-test" and api.headers[0]["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (message(GOOD, thinking=True), "ok"),
        (message(None, "refusal", stop_details={"type": "refusal", "category": "bio"}), "refusal"),
        (message('{"evidence": "I cannot", "score": 0}', "refusal"), "refusal"),
        (message('{"evidence": "lo', "max_tokens"), "truncated"),
        (message(GOOD, "model_context_window_exceeded"), "truncated"),
        (message(""), "invalid"),
        (message(None, thinking=True), "invalid"),
        (message("```json\n" + GOOD + "\n```"), "invalid"),
        (message('{"evidence": "x", "score": 4}'), "invalid"),
        (message('{"evidence": "x", "score": "2"}'), "invalid"),
        (message('{"evidence": "x", "score": true}'), "invalid"),
        (message('{"evidence": "x"}'), "invalid"),
        (message('{"evidence": "x", "score": 1, "more": 1}'), "invalid"),
        (message('{"evidence": "x", "score": 1, "score": 2}'), "invalid"),
        (message('{"evidence": "x", "score": 2.0}'), "invalid"),
        (message("[1"), "invalid"),
    ],
)  # fmt: skip
def test_every_kind_of_message_is_charged_once_and_final(api, open_judge, tmp_path, reply, status):
    api.script = [reply]
    judge = open_judge()
    (first,) = judge.ask([question()])
    (again,) = judge.ask([question()])
    assert first.status == again.status == status and again.recorded
    assert len(api.sent()) == 1 and first.cost_usd == pytest.approx(BILLED_USD)
    assert (first.value is not None) == (status == "ok")
    assert judge.ledger.committed_usd() == pytest.approx(BILLED_USD)
    assert (calls(tmp_path)["parsed"][0] is not None) == (status == "ok")


def test_refusals_keep_their_category(api, open_judge, tmp_path):
    api.script = [message(None, "refusal", stop_details={"type": "refusal", "category": "cyber"})]
    assert open_judge().ask([question()])[0].category == "cyber"
    assert calls(tmp_path)["category"][0] == "cyber"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_wrong_request_is_not_repeated_and_costs_nothing(api, open_judge, status):
    api.script = [error(status, "invalid_request_error")]
    judge = open_judge()
    (reply,) = judge.ask([question()])
    assert reply.status == "error" and f"HTTP {status}" in reply.detail and len(api.sent()) == 1
    assert judge.ledger.committed_usd() == 0
    assert judge.ask([question()])[0].status == "ok"  # an error is no answer: asked again in the next run


@pytest.mark.parametrize("fault", [error(s) for s in (408, 409, 429, 500, 502, 503, 504, 529)], ids=lambda f: str(f.status))
def test_passing_trouble_is_retried_for_nothing(api, open_judge, fault):
    api.script = [fault, message(GOOD)]
    (reply,) = open_judge().ask([question()])
    assert reply.status == "ok" and reply.n_attempts == 2 and reply.cost_usd == pytest.approx(BILLED_USD)


@pytest.mark.parametrize(
    "fault",
    [RESET, HALF, HTML, NULLS, BROKEN, EMPTY, DEEP, ZIPPED, usage(output_tokens=-5), usage(input_tokens=10**30),
     usage(input_tokens=None)],
    ids=["reset", "half", "html", "nulls", "broken", "empty", "deep", "zipped", "negative", "huge", "no count"],
)  # fmt: skip
def test_lost_answers_are_retried_and_counted_at_their_worst(api, open_judge, tmp_path, fault):
    api.script = [fault, message(GOOD)]
    judge = open_judge()
    (reply,) = judge.ask([question()])
    assert reply.status == "ok" and reply.n_attempts == 2
    assert reply.cost_usd == pytest.approx(BILLED_USD + worst_usd(judge, question()))
    assert calls(tmp_path)["status"].to_list() == ["error", "ok"]


def test_half_a_surrogate_pair_is_stored_and_no_answer(api, open_judge, tmp_path):
    api.script = [Fault(200, json.dumps(message('{"evidence": "BAD", "score": 1}').body).replace("BAD", "\\ud83d"))]
    (reply,) = open_judge().ask([question()])
    assert reply.status == "invalid" and calls(tmp_path)["status"].to_list() == ["invalid"]


def test_a_timeout_is_counted_at_its_worst(api, open_judge):
    api.script = [Fault(delay=0.6, status=500), message(GOOD)]
    judge = open_judge(limits=Limits(attempt_seconds=0.2, first_wait_seconds=0.01))
    (reply,) = judge.ask([question()])
    assert reply.status == "ok" and reply.cost_usd == pytest.approx(BILLED_USD + worst_usd(judge, question()))


def test_trouble_that_stays_ends_as_an_error(api, open_judge):
    api.script = [error(529) for _ in range(QUICK.max_attempts)]
    (reply,) = open_judge().ask([question()])
    assert reply.status == "error" and "529" in reply.detail and len(api.sent()) == QUICK.max_attempts
    assert reply.ask_again


def test_what_a_later_run_should_ask_again(api, open_judge):
    """Trouble that passes and a cap per run, not a wrong request and not the study's own cap."""
    api.script = [error(529) for _ in range(QUICK.max_attempts)]
    judge = open_judge()
    (down,) = judge.ask([question()])
    api.script = [error(400, "invalid_request_error")]
    (wrong,) = judge.ask([question(1)])
    assert down.ask_again and not wrong.ask_again and judge.unanswered == {down.request_sha}
    (poor,) = open_judge(cap_usd=1e-9).ask([question(2)])
    (run,) = open_judge(run_usd=1e-9).ask([question(2)])
    assert (poor.status, poor.ask_again) == ("budget", False) and (run.status, run.ask_again) == ("budget", True)
    later = open_judge(run_id="later")
    assert [reply.status for reply in later.ask([question(n) for n in range(3)])] == ["ok"] * 3 and not later.unanswered


def test_a_huge_retry_after_does_not_hang(api, open_judge):
    api.script = [error(429, retry_after="4294967"), message(GOOD)]
    assert open_judge().ask([question()])[0].status == "ok"


def test_the_deadline_bounds_all_tries(api, open_judge):
    api.script = [error(429, retry_after="50") for _ in range(9)]
    limits = Limits(max_attempts=9, max_wait_seconds=60, deadline_seconds=1)
    assert open_judge(limits=limits).ask([question()])[0].status == "error"
    assert len(api.sent()) == 1


def test_the_server_may_forbid_a_retry(api, open_judge):
    api.script = [error(500, x_should_retry="false")]
    assert open_judge().ask([question()])[0].status == "error" and len(api.sent()) == 1


@pytest.mark.parametrize(
    "fault", [error(401), error(402), error(403), error(404), error(429, code="enforced_spend_limit_reached")],
    ids=["401", "402", "403", "404", "spend limit"],
)  # fmt: skip
def test_what_stops_everything_stops_at_once_and_keeps_what_is_there(api, open_judge, tmp_path, fault):
    api.script = [message(GOOD), fault]
    with pytest.raises(UserError, match="kept"):
        open_judge(concurrency=1).ask([question(n) for n in range(9)])
    assert len(api.sent()) == 2 and calls(tmp_path)["status"].to_list() == ["ok", "error"]


def test_settings_that_every_request_trips_over_stop_the_run(api, open_judge):
    api.script = [error(400, "invalid_request_error") for _ in range(50)]
    with pytest.raises(UserError, match="settings"):
        open_judge(concurrency=1).ask([question(n) for n in range(50)])
    assert len(api.sent()) == 8


def test_a_server_that_is_down_stops_the_run_instead_of_failing_every_request_one_by_one(api, open_judge):
    api.script = [message(GOOD), *(error(529) for _ in range(400))]
    with pytest.raises(UserError, match=r"529.*the 1 answers so far are kept"):
        open_judge(concurrency=1).ask([question(n) for n in range(100)])
    assert len(api.sent()) == 1 + 5 * QUICK.max_attempts


def test_nobody_listening_costs_nothing(open_judge):
    judge = open_judge()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    judge.settings = type(judge.settings)(MODEL, HOSTED, f"http://127.0.0.1:{port}")
    assert judge.ask([question()])[0].status == "error" and judge.ledger.committed_usd() == 0


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


def test_votes_are_separate_questions(api, open_judge):
    open_judge().ask([question(0, vote=0), question(0, vote=1)])
    assert len(api.sent()) == 2


def test_an_endpoint_without_schemas_is_told_in_words_and_asked_again(api, open_judge):
    loose = Capabilities(structured=False, batches=False, temperature=True)
    api.reset(structured=False, temperature=True)
    api.script = [message("sure!"), message("```json\n" + GOOD + "\n```")]
    judge = open_judge(capabilities=loose)
    (reply,) = judge.ask([question()])
    assert reply.status == "ok" and reply.value.score == 0
    body = api.sent()[0]
    assert '"enum": [0, 1, 2, 3]' in body["system"] and "format" not in body.get("output_config", {}) and body["temperature"] == 0
    api.script = [message("no") for _ in range(9)]
    assert judge.ask([question(1)])[0].status == "invalid" and len(api.sent()) == 2 + 3


def test_worst_case_is_never_below_the_cost():
    price = price_of(MODEL)
    text = "ü漢字 \\x00 plain" * 400
    n_bytes = len(text.encode())
    from sae_pipeline.judge.reply import Usage

    for usage in (Usage(n_bytes, 300), Usage(0, 300, cache_write=n_bytes), Usage(0, 300, cache_read=n_bytes)):
        assert price.cost_nano(usage) <= price.worst_case_nano(n_bytes, 300)
    assert price.cost_nano(Usage(1_000_000, 0)) == 5 * 100_000_000  # above 100 k prompt tokens: five times the rate
    assert price.cost_nano(Usage(10_000, 1_000), batch=True) * 2 == price.cost_nano(Usage(10_000, 1_000))


def test_a_model_without_a_price_is_never_called():
    with pytest.raises(UserError, match=r"judge\.prices"):
        price_of("claude-unheard-of")
    own = price_of("claude-unheard-of", {"claude-unheard-of": {"input": 1.0, "output": 2.0}})
    assert own.cache_write == 2.0 and own.batch_factor == 1.0
