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


def echo(status: int = 200) -> Fault:
    """A server or proxy that repeats the caller's headers."""
    if status == 200:
        return Fault(200, f"<p>Authorization: Bearer {SENTINEL}</p>", media_type="text/html")
    return Fault(status, {"type": "error", "error": {"type": "api_error", "message": f"Bearer {SENTINEL}"}})


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
