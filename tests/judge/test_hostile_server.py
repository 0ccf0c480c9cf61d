"""A server that fills whatever field it likes with the caller's key, or with things of another kind; everything over TCP."""

import copy
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge.batch_api import UnusableBatchId
from sae_pipeline.judge.batches import BatchesPending, BatchJudge
from sae_pipeline.judge.interactive import InteractiveJudge
from sae_pipeline.judge.key import Key, NoSecret
from sae_pipeline.judge.ledger import Caps, Ledger
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.request import Settings
from sae_pipeline.judge.retry import Limits
from sae_pipeline.judge.submissions import Submissions
from tests.fakes.messages_api import Fault, message, message_body
from tests.judge.conftest import HOSTED, MODEL, question

SENTINEL = "sk-ant-sentinel-0123456789"
QUICK = Limits(max_attempts=2, attempt_seconds=2.0, deadline_seconds=5.0, first_wait_seconds=0.001, max_wait_seconds=0.005)
Open = Callable[..., Any]


@pytest.fixture
def opened(api, tmp_path: Path) -> Iterator[Open]:
    """Opens judges with the sentinel as key; all share one ledger in `tmp_path`."""
    api.key = SENTINEL

    @contextmanager
    def make(kind: type = BatchJudge, wait: float = 2.0) -> Iterator[Any]:
        settings = Settings(MODEL, HOSTED, api.url)
        with Ledger(tmp_path, "run", Caps(1.0)) as ledger:
            common = (settings, price_of(MODEL), ledger, Key(SENTINEL))
            if kind is BatchJudge:
                yield BatchJudge(*common, wait, 0.001, grace_seconds=0.0, limits=QUICK)
            else:
                yield InteractiveJudge("anthropic", *common, 1, QUICK)

    yield make
    api.key = "sk-test"


def kept(folder: Path) -> str:
    return "".join(file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file())


def renamed(new: object) -> Callable[[str, Any], Any]:
    """Every batch that is shown, alone or in a list, under this name."""

    def mangle(path: str, document: Any) -> Any:
        if "data" in document:
            return document | {"data": [each | {"id": new} for each in document["data"]]}
        return document | {"id": new}

    return mangle


IDS = (f"msgbatch_{SENTINEL}", SENTINEL[:13], f"x{SENTINEL[-15:]}", "a" * 129, "../../v1/models", "a\n", None, [SENTINEL])


@pytest.mark.parametrize("name", IDS, ids=repr)
def test_a_batch_id_that_cannot_be_kept_is_refused_and_its_batch_neither_lost_nor_paid_twice(api, opened, tmp_path, caplog, name):
    caplog.set_level(logging.DEBUG)
    api.mangle = renamed(name)
    for _ in range(2):  # when it is created, and when the next run looks for it
        with opened() as judge, pytest.raises(UnusableBatchId) as caught:
            judge.ask([question(n) for n in range(3)])
        assert caught.value.args and "no batch id" in str(caught.value) and str(caught.value).count("\n") == 0
        assert not any(part in str(caught.value) + caplog.text + kept(tmp_path) for part in (SENTINEL[:13], SENTINEL[-13:]))
    with opened() as judge:
        (submission,) = Submissions(judge.ledger).unsettled()
        assert submission.batch_id is None and judge.ledger.committed_usd() > 0  # reserved until it is known
    api.mangle = None
    with opened() as judge:
        assert [reply.status for reply in judge.ask([question(n) for n in range(3)])] == ["ok"] * 3 and judge.n_sent == 0
    assert len(api.batches.made) == 1 and set(api.billed.values()) == {1}


def test_what_can_be_collected_is_collected_before_the_refusal(api, opened):
    api.batches.ends_after = 1
    with opened(wait=0.0) as judge, pytest.raises(BatchesPending) as pending:
        judge.ask([question(0)])
    assert pending.value.batch_ids == ["msgbatch_0000"]
    api.mangle = lambda path, document: document | {"id": SENTINEL} if document.get("id") == "msgbatch_0001" else document
    with opened() as judge, pytest.raises(UnusableBatchId):
        judge.ask([question(1), question(2)])
    # Now the list, too, shows it under that name.
    api.mangle = lambda path, document: json.loads(json.dumps(document).replace("msgbatch_0001", SENTINEL))
    with opened() as judge:
        with pytest.raises(UnusableBatchId):
            judge.advance()
        assert judge.ledger.recorded(question(0).sha(judge.settings)).status == "ok"


def test_a_batch_of_another_size_may_have_any_name(api, opened):
    api.batches.lose_reply = 1
    api.batches._create({"requests": [{"custom_id": "other", "params": {}}]})
    api.batches.made["msgbatch_0000"]["polls"] = -99  # never ends
    api.mangle = lambda path, document: json.loads(json.dumps(document).replace("msgbatch_0000", SENTINEL))
    with opened() as judge:
        assert {reply.status for reply in judge.ask([question(n) for n in range(3)])} == {"ok"}
    assert len(api.batches.made) == 2


def paths(document: Any, at: tuple = ()) -> Iterator[tuple]:
    yield at
    parts = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for name, part in parts:
        yield from paths(part, (*at, name))


def put(document: Any, at: tuple, junk: object) -> Any:
    if not at:
        return junk
    document = copy.deepcopy(document)
    inner = document
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = junk
    return document


GOOD = [{"type": "text", "text": '{"evidence": "near", "score": 0}'}]
MESSAGE = message_body(MODEL, GOOD, "end_turn", 100, 10, stop_details={"type": "refusal", "category": "bio"})
LINE = {"custom_id": "c", "result": {"type": "errored", "error": {"type": "error", "error": {"type": "t", "message": "m"}}}}
SHOWN = ("processing_status", "request_counts", "results_url", "created_at", "type", "request_counts/processing")


@pytest.mark.parametrize("junk", [SENTINEL, {SENTINEL: SENTINEL}], ids=lambda junk: type(junk).__name__)
def test_whatever_field_of_a_message_is_wrong_it_is_a_status_and_the_key_is_not_kept(api, opened, tmp_path, junk, caplog):
    caplog.set_level(logging.DEBUG)
    api.extra_headers = dict.fromkeys(("request-id", "anthropic-organization-id", "anthropic-workspace-id"), SENTINEL)
    refusal = MESSAGE | {"stop_reason": "refusal"}
    spoilt = [put(MESSAGE, at, junk) for at in paths(MESSAGE)]
    spoilt += [put(refusal, at, junk) for at in paths(refusal) if at[:1] == ("stop_details",)]
    todo = [
        reply for each in spoilt for reply in (each, MESSAGE)
    ]  # a good one after each, so that no run of failures ends it all
    api.mangle = lambda path, document: todo.pop(0) if todo else MESSAGE
    with opened(InteractiveJudge) as judge:
        replies = judge.ask([question(n) for n in range(len(todo))])
    assert not todo and len(spoilt) > 20
    assert {reply.status for reply in replies} - {"refusal", "invalid"} == {"ok"}
    assert SENTINEL not in kept(tmp_path) + caplog.text + repr(replies)


@pytest.mark.parametrize("junk", [SENTINEL, {SENTINEL: SENTINEL}], ids=lambda junk: type(junk).__name__)
def test_whatever_is_wrong_about_a_batch_it_is_one_error_or_a_status(api, opened, tmp_path, junk, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    def ask(numbers: range) -> None:
        with opened(wait=0.0) as judge:
            try:
                said.append(repr(judge.ask([question(n) for n in numbers])))
            except UserError as error:
                said.append(str(error))

    fields = list(paths(LINE))
    todo = fields[:]
    api.mangle = lambda path, document: put(LINE | {"custom_id": document["custom_id"]}, todo.pop(0), junk) if todo and (
        path.endswith("results")) else document  # fmt: skip
    ask(range(len(fields)))
    assert not todo
    for n, field in enumerate(SHOWN):
        at = tuple(field.split("/"))
        api.mangle = lambda path, document, at=at: put(document, at, junk) if "processing_status" in document else document
        ask(range(100 + n, 101 + n))
    api.batches.lose_reply = 1
    api.mangle = lambda path, document: junk if path.endswith("batches") else document
    ask(range(200, 201))
    api.mangle = None
    with opened() as judge:  # once the server is well again, everything is answered
        numbers = [*range(len(fields)), *range(100, 100 + len(SHOWN)), 200]
        assert {reply.status for reply in judge.ask([question(n) for n in numbers])} == {"ok"}
    everything = "".join([*said, kept(tmp_path), caplog.text, *(str(warning.message) for warning in recwarn.list)])
    assert len(said) == 2 + len(SHOWN) and SENTINEL not in everything


def test_a_key_behind_escapes_is_found(api, opened, tmp_path):
    hidden = "".join(f"\\u{ord(letter):04x}" for letter in SENTINEL)
    halves = f"{SENTINEL[:13]} and {SENTINEL[13:]}"
    api.script = [message(f'{{"evidence": "{said}", "score": 0}}') for said in (hidden, halves, f'\\"{SENTINEL}\\"')]
    with opened(InteractiveJudge) as judge:
        replies = judge.ask([question(n) for n in range(3)])
    # The last one is no JSON any more without its escapes: better no answer than the key.
    assert [reply.status for reply in replies] == ["ok", "ok", "invalid"]
    assert [reply.value.evidence for reply in replies[:2]] == ["[key]", "[key] and [key]"]
    assert not any(part in kept(tmp_path) for part in (SENTINEL[:13], SENTINEL[13:], hidden[:40]))


def test_numbers_that_no_program_reads_are_a_lost_answer(api, opened):
    api.script = [Fault(200, '{"usage": ' + "9" * 5000 + "}"), Fault(200, "[" * 100_000)]
    with opened(InteractiveJudge) as judge:
        assert [reply.status for reply in judge.ask([question()])] == ["error"]
        assert judge.ask([question()])[0].status == "ok"


def test_two_equal_names_of_different_types_are_no_answer(api, opened):
    api.script = [message('{"evidence": "x", "score": "high", "score": 0}')]
    with opened(InteractiveJudge) as judge:
        assert judge.ask([question()])[0].status == "invalid"


def test_what_counts_as_a_part_of_the_key():
    key = Key(SENTINEL)
    assert key.redact(f"{SENTINEL}{SENTINEL}") == "[key][key]"
    assert key.redact(f"a {SENTINEL[3:16]}, {SENTINEL[:12]}") == f"a [key], {SENTINEL[:12]}"
    assert key.redact(f"{SENTINEL[:20]}!") == "[key]!" and key.redact("") == "" and not key.is_in("sk-ant- 0123456789")
    assert Key("sk-test").redact("sk-tes sk-test") == "sk-tes [key]"
    assert Key(r"a\b'c\"d").redact(repr(r"<a\b'c\"d>")) == "'<[key]>'"
    # What a local server is sent is no secret: explanations may well say it.
    assert NoSecret("local").redact("local \\u0041") == "local \\u0041"
