import logging
from pathlib import Path

import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge.batches import BatchJudge
from sae_pipeline.judge.interactive import InteractiveJudge
from sae_pipeline.judge.key import Key, find_key
from sae_pipeline.judge.ledger import Caps, Ledger
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.request import Settings
from tests.fakes.messages_api import Fault, error, message
from tests.judge.conftest import HOSTED, MODEL, QUICK, question

SENTINEL = "sk-ant-sentinel-0123456789"


def test_the_key_comes_from_a_private_file_or_the_environment(tmp_path):
    assert find_key(None, {}) is None and find_key(None, {"ANTHROPIC_API_KEY": " "}) is None
    key = find_key(None, {"ANTHROPIC_API_KEY": SENTINEL})
    assert key is not None and key.reveal() == SENTINEL and SENTINEL not in f"{key!r} {key} {[key]} {vars(key).keys()}"
    file = tmp_path / "key"
    with pytest.raises(UserError, match="does not exist"):
        find_key(str(file), {})
    file.write_text("", encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(UserError, match="empty"):
        find_key(str(file), {})
    file.write_text(SENTINEL + "\n", encoding="utf-8")
    found = find_key(str(file), {})
    assert found is not None and found.reveal() == SENTINEL
    file.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        find_key(str(file), {})


@pytest.mark.parametrize("wrong", ["sk-ant\n0123456789", "sk-ant\x010123456789", "sk-ant 0123456789", "sk-ánt-0123456789"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(wrong):
    """The client's own error about such a header shows all of it, escaped, where no search for the key finds it."""
    with pytest.raises(UserError, match="no HTTP header can carry") as caught:
        find_key(None, {"ANTHROPIC_API_KEY": wrong})
    assert "0123456789" not in repr(caught.value) + str(caught.value)


def echo(status: int = 200) -> Fault:
    """A server or proxy that repeats the caller's headers."""
    if status == 200:
        return Fault(200, f"<p>Authorization: Bearer {SENTINEL}</p>", media_type="text/html")
    return problem(status, f"Bearer {SENTINEL}")


def problem(status: int, text: str) -> Fault:
    return Fault(status, {"type": "error", "error": {"type": "api_error", "message": text}})


def test_an_answer_that_quotes_the_key_is_stored_without_it(api, tmp_path: Path):
    """Values go into tables and onto pages; a refusal's category does, too. The same by batch."""
    valid = f'{{"evidence": "called with {SENTINEL}", "score": 0}}'
    settings, key = Settings(MODEL, HOSTED, api.url), Key(SENTINEL)
    api.key = SENTINEL
    try:
        with Ledger(tmp_path, "run", Caps(1.0)) as ledger:
            interactive = InteractiveJudge("anthropic", settings, price_of(MODEL), ledger, key, 1, QUICK)
            batches = BatchJudge(settings, price_of(MODEL), ledger, key, 5, 0.01, grace_seconds=0.0, limits=QUICK)
            api.script = [message(valid), message(None, "refusal", stop_details={"type": "refusal", "category": SENTINEL})]
            replies = interactive.ask([question(0), question(1)])
            api.answer = lambda body: valid
            replies += batches.ask([question(2)])
            replies += interactive.ask([question(2)])
    finally:
        api.key = "sk-test"
    assert [reply.status for reply in replies] == ["ok", "refusal", "ok", "ok"]
    assert [reply.value.evidence for reply in replies if reply.value] == ["called with [key]"] * 3
    assert replies[1].category == "[key]"
    assert not any(SENTINEL.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_of_a_long_echo_not_even_the_first_half_of_the_key_is_kept(api, tmp_path: Path):
    """Wherever what the server says is cut: the key goes out before that."""
    paddings = range(380, 510, len(SENTINEL) // 3)
    with Ledger(tmp_path, "run", Caps(1.0)) as ledger:
        judge = InteractiveJudge("anthropic", Settings(MODEL, HOSTED, api.url), price_of(MODEL), ledger, Key("sk-test"), 1, QUICK)
        judge.ask([question()])  # so that refusals are not taken for wrong settings
        judge._key = Key(SENTINEL)
        api.script = [problem(400, "." * n + SENTINEL) for n in paddings]
        details = [reply.detail for reply in judge.ask([question(n) for n in range(1, 1 + len(paddings))])]
    assert len(details) == len(paddings) > 10 and max(map(len, details)) == 500 and any("[key]" in each for each in details)
    assert not any(SENTINEL[:6] in each for each in details)


def test_the_key_reaches_no_file_no_log_and_no_exception(api, tmp_path: Path, caplog):
    caplog.set_level(logging.DEBUG)
    settings, key = Settings(MODEL, HOSTED, api.url), Key(SENTINEL)
    shown: list[str] = []
    with Ledger(tmp_path, "run", Caps(1.0)) as ledger:
        interactive = InteractiveJudge("anthropic", settings, price_of(MODEL), ledger, key, 1, QUICK)
        batches = BatchJudge(settings, price_of(MODEL), ledger, key, 5, 0.01, grace_seconds=0.0, limits=QUICK)
        api.script = [echo(), echo(500), echo(400), message(f"I was called with {SENTINEL}")]
        shown.append(repr(interactive.ask([question(0), question(1)])))
        for judge in (interactive, batches):
            api.script = [echo(401)]  # and without a script the server itself echoes the header it refuses
            with pytest.raises(UserError) as caught:
                judge.ask([question(2)])
            shown.append("".join(str(part) for part in (caught.value, caught.value.__cause__, vars(caught.value))))
        api.script = [error(400)]
        with pytest.raises(UserError):
            batches.ask([question(3)])
        shown.append(repr(vars(interactive)) + repr(vars(batches)))
    # The client itself logs request headers at DEBUG level; it redacts the key.
    texts = [*shown, caplog.text, *(file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file())]
    assert sum("[key]" in text for text in texts) >= 3  # the echoes did arrive
    assert not any(SENTINEL in text for text in texts)
