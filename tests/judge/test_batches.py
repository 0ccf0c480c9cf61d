from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge.batches import BatchesPending, BatchJudge
from sae_pipeline.judge.calls import read_calls
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.ledger import Caps, Entry, Ledger
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.request import Settings
from sae_pipeline.judge.submissions import Submissions
from tests.fakes.messages_api import Fault, error
from tests.judge.conftest import HOSTED, MODEL, QUICK, question


@pytest.fixture
def open_batches(api, tmp_path: Path) -> Iterator[Callable[..., BatchJudge]]:
    opened: list[Ledger] = []

    def make(wait: float = 5.0, cap_usd: float = 1.0, run_id: str = "run") -> BatchJudge:
        opened.append(Ledger(tmp_path / "judge", run_id, Caps(cap_usd)))
        settings = Settings(MODEL, HOSTED, api.url)
        return BatchJudge(settings, price_of(MODEL), opened[-1], Key("sk-test"), wait, 0.01, grace_seconds=0.0, limits=QUICK)

    yield make
    for ledger in opened:
        ledger.close()


def creations(api) -> list[set[str]]:
    return [{item["custom_id"] for item in batch["requests"]} for batch in api.batches.made.values()]


def test_a_batch_answers_at_half_the_price(api, open_batches, open_judge):
    judge = open_batches()
    replies = judge.ask([question(n) for n in range(5)])
    assert [reply.status for reply in replies] == ["ok"] * 5 and len(api.batches.made) == 1 and judge.n_sent == 5
    assert sorted(creations(api)[0]) == sorted(reply.request_sha for reply in replies)
    usage = api.reply(question(0).wire(judge.settings))[1]["usage"]
    assert replies[0].cost_usd == pytest.approx((usage["input_tokens"] * 0.10 + usage["output_tokens"] * 0.50) / 2e6)
    # The same question on the other backend is the same answer.
    assert [reply.value for reply in open_judge().ask([question(n) for n in range(5)])] == [reply.value for reply in replies]
    assert not api.sent()


def test_leaving_and_coming_back(api, open_batches, tmp_path):
    api.batches.ends_after = 3
    with pytest.raises(BatchesPending, match="5 answers"):
        open_batches(wait=0).ask([question(n) for n in range(5)])
    assert read_calls(tmp_path / "judge")["status"].to_list() == ["not_run"] * 5
    assert {reply.status for reply in open_batches(run_id="later").ask([question(n) for n in range(5)])} == {"ok"}
    assert len(api.batches.made) == 1 and set(api.billed.values()) == {1}


@pytest.mark.parametrize("how", ["expired", "canceled", "errored", "missing"])
def test_what_a_batch_did_not_answer_is_submitted_again(api, open_batches, tmp_path, how):
    sha = question(1).sha(Settings(MODEL, HOSTED, api.url))
    api.batches.spoil = {sha: how}
    replies = open_batches().ask([question(n) for n in range(3)])
    assert {reply.status for reply in replies} == {"ok"} and [len(ids) for ids in creations(api)] == [3, 1]
    rows = read_calls(tmp_path / "judge").filter(request_sha=sha)
    assert rows["status"].to_list() == ["error", "ok"]
    # Only a result that never came may have been billed.
    assert (rows["cost_usd"][0] == rows["reserved_usd"][0]) == (how == "missing") and (rows["cost_usd"][0] > 0) == (
        how == "missing"
    )


def test_a_request_that_is_wrong_is_not_submitted_again(api, open_batches):
    api.batches.spoil = {question(1).sha(Settings(MODEL, HOSTED, api.url)): "invalid"}
    replies = open_batches().ask([question(n) for n in range(3)])
    assert [reply.status for reply in replies] == ["ok", "error", "ok"] and len(api.batches.made) == 1


def test_duplicated_results_count_once(api, open_batches, tmp_path):
    api.batches.spoil = {"*": "duplicated"}
    assert {reply.status for reply in open_batches().ask([question(n) for n in range(3)])} == {"ok"}
    assert read_calls(tmp_path / "judge").height == 3


def test_a_download_that_breaks_off_leaves_nothing_half_written(api, open_batches, tmp_path):
    api.batches.cut_results = 1
    replies = open_batches().ask([question(n) for n in range(4)])
    assert {reply.status for reply in replies} == {"ok"}
    assert read_calls(tmp_path / "judge")["status"].to_list() == ["ok"] * 4


@pytest.mark.parametrize("ends_after", [0, 2])
def test_a_batch_whose_creation_was_lost_is_adopted(api, open_batches, ends_after):
    api.batches.lose_reply, api.batches.ends_after = 1, ends_after
    replies = open_batches().ask([question(n) for n in range(4)])
    assert {reply.status for reply in replies} == {"ok"} and len(api.batches.made) == 1 and set(api.billed.values()) == {1}


def test_a_batch_that_was_never_created_is_submitted_again(api, open_batches):
    api.script = [error(503)]
    assert {reply.status for reply in open_batches().ask([question(n) for n in range(4)])} == {"ok"}
    assert len(api.batches.made) == 1


def test_a_foreign_batch_of_equal_size_is_not_mistaken_for_ours(api, open_batches):
    api.batches.lose_reply = 2
    foreign = open_batches()
    api.batches._create(
        {"requests": [{"custom_id": f"other{n}", "params": question(n).wire(foreign.settings)} for n in range(4)]}
    )
    api.billed.clear()
    api.batches.ends_after = 1  # still running when it is first seen: taken on trust, then disowned
    replies = open_batches().ask([question(n) for n in range(4)])
    assert {reply.status for reply in replies} == {"ok"} and len(api.batches.made) == 2


def test_a_process_that_died_between_intent_and_creation_costs_nothing(api, open_batches, tmp_path):
    judge = open_batches()
    judge.ledger.me = (999_999, 0.0)  # the intent of a process that is no more
    entries = [Entry(question(n), question(n).sha(judge.settings), 1000) for n in range(3)]
    judge.ledger.open_submission(entries, "anthropic-batch", judge.settings)
    other = open_batches(run_id="later")
    assert {reply.status for reply in other.ask([question(n) for n in range(3)])} == {"ok"}
    assert len(api.batches.made) == 1 and Submissions(other.ledger).unsettled() == []
    assert read_calls(tmp_path / "judge")["cost_usd"].to_list()[:3] == [0, 0, 0]


@pytest.mark.parametrize(
    "fault", [error(401), error(403), error(400, "invalid_request_error"), error(413)], ids=lambda f: str(f.status)
)
def test_a_batch_refused_as_a_whole_is_an_error_that_costs_nothing(api, open_batches, fault):
    api.script = [fault]
    judge = open_batches()
    with pytest.raises(UserError, match=f"HTTP {fault.status}"):
        judge.ask([question(n) for n in range(4)])
    assert judge.ledger.committed_usd() == 0 and not api.batches.made


def test_the_cap_splits_a_batch_and_room_is_used_as_it_appears(api, open_batches):
    judge = open_batches()
    worst = price_of(MODEL).worst_case_nano(len(str(question(0).wire(judge.settings))), 200, batch=True) / 1e9
    replies = open_batches(cap_usd=1.7 * worst).ask([question(n) for n in range(24)])
    statuses = [reply.status for reply in replies]
    assert len(creations(api)) > 2 and max(map(len, creations(api))) == 1
    assert statuses.count("ok") > 3 and "budget" in statuses
    assert judge.ledger.committed_usd() <= 1.7 * worst


def test_polling_survives_trouble(api, open_batches):
    api.batches.ends_after = 1
    judge = open_batches()
    with pytest.raises(BatchesPending):
        open_batches(wait=0).ask([question(n) for n in range(2)])
    api.script = [error(529), Fault(reset=True), Fault(half=True)]
    assert {reply.status for reply in judge.ask([question(n) for n in range(2)])} == {"ok"}
    assert len(api.batches.made) == 1


def test_a_question_inside_a_running_batch_is_not_asked_beside_it(api, open_batches, open_judge):
    api.batches.ends_after = 99
    with pytest.raises(BatchesPending):
        open_batches(wait=0).ask([question()])
    (reply,) = open_judge().ask([question()])
    assert reply.status == "not_run" and "batch" in reply.detail and not api.sent()
