"""Counting at the judge's server: what passes is tried again by our loop, what does not is said at once."""

import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.judge import count
from sae_pipeline.judge.count import CannotCount, ServerCounter
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.open import HOSTED
from sae_pipeline.judge.request import Settings
from sae_pipeline.judge.retry import Limits
from tests.fakes.messages_api import Fault, error
from tests.judge.conftest import MODEL

PATH = "/v1/messages/count_tokens"
TEXT = "The keeper of the lighthouse counts ships."


@pytest.fixture
def counter(api, monkeypatch: pytest.MonkeyPatch) -> ServerCounter:
    monkeypatch.setattr(count, "LIMITS", Limits(max_attempts=3, first_wait_seconds=0.01))
    return ServerCounter(Key(api.key), Settings(MODEL, HOSTED, api.url))


def test_trouble_that_passes_is_tried_again(api, counter):
    api.script = [error(529), Fault(reset=True)]
    assert counter.text(TEXT) == api.usage_of(api.sent(PATH)[0], "")[0]
    assert len(api.sent(PATH)) == 3 and counter.n_sent == 1  # one text, however often


def test_trouble_that_stays_ends_after_as_many_attempts_as_are_allowed(api, counter):
    api.script = [error(500) for _ in range(9)]
    with pytest.raises(CannotCount):
        counter.text(TEXT)
    assert len(api.sent(PATH)) == 3


@pytest.mark.parametrize(("status", "raised"), [(401, UserError), (404, CannotCount)])
def test_a_refusal_is_not_asked_again(api, counter, status: int, raised: type[Exception]):
    api.script = [error(status, "authentication_error" if status == 401 else "not_found_error")]
    with pytest.raises(raised):
        counter.text(TEXT)
    assert len(api.sent(PATH)) == 1
