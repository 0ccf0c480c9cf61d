"""What a reply says: its status, what is stored, what is charged, and that it is final."""

import json

import pytest

from sae_pipeline.judge.request import Capabilities
from tests.fakes.messages_api import Fault, message
from tests.judge.conftest import Verdict, question
from tests.judge.scripted import BILLED_USD, GOOD, calls


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


def test_half_a_surrogate_pair_is_stored_and_no_answer(api, open_judge, tmp_path):
    api.script = [Fault(200, json.dumps(message('{"evidence": "BAD", "score": 1}').body).replace("BAD", "\\ud83d"))]
    (reply,) = open_judge().ask([question()])
    assert reply.status == "invalid" and calls(tmp_path)["status"].to_list() == ["invalid"]


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
