"""What goes wrong on the way: what is retried, what is charged for it, and when the run stops."""

import socket

import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge.retry import Limits
from tests.fakes.messages_api import Fault, error, message
from tests.judge.conftest import HOSTED, MODEL, QUICK, question
from tests.judge.scripted import BILLED_USD, GOOD, calls, worst_usd

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
