"""What an exception of the client means: is the request wrong, is everything wrong, or is it worth another try; was it billed?

The client's own retries are off. It obeys any `retry-after` without ceiling, and a second try after a timeout could be billed
twice without our ledger knowing.
"""

import json
from dataclasses import dataclass
from typing import Literal

from sae_pipeline.judge.key import Key

Verdict = Literal["retry", "request", "all"]
MAX_DETAIL = 500  # characters of what a server or a proxy says


@dataclass(frozen=True)
class Limits:
    """Bounds of the retry loop, in seconds."""

    max_attempts: int = 6
    attempt_seconds: float = 180.0
    deadline_seconds: float = 900.0
    first_wait_seconds: float = 1.0
    max_wait_seconds: float = 60.0

    def wait(self, n_failed: int, retry_after: float | None, jitter: float) -> float:
        """Seconds before the next try: what the server asks for, or doubling waits; never above the ceiling.

        `jitter` in [0, 1) spreads the waits of concurrent requests.
        """
        if retry_after is not None:
            return min(retry_after * (1 + 0.1 * jitter), self.max_wait_seconds)
        return min(self.first_wait_seconds * 2 ** (n_failed - 1), self.max_wait_seconds) * (0.5 + 0.5 * jitter)


@dataclass(frozen=True)
class Failure:
    """`verdict`: `retry` it, give up this `request`, or stop `all` of them. `billed`: the server may charge for it."""

    verdict: Verdict
    billed: bool
    detail: str
    http_status: int | None = None
    retry_after: float | None = None


class Malformed(Exception):
    """A 200 that is not what was asked for. `wanted` is in our words: nothing of the answer is in the message."""

    def __init__(self, wanted: str) -> None:
        super().__init__(f"200 without {wanted}")


def failure_of(error: Exception, key: Key) -> Failure:
    """Classify what a call raised, `key` kept out of it. What no fault of the network or the server explains is raised again."""
    import anthropic
    import httpx2

    if isinstance(error, anthropic.APIStatusError):
        return _status_failure(error, key)
    if isinstance(error, anthropic.APIConnectionError | httpx2.HTTPError | TimeoutError):
        cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else error
        # Only a connection that never stood is certain to have cost nothing.
        never_sent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        name = type(cause or error).__name__
        return Failure("retry", billed=not never_sent, detail=_shown(f"{name}: {cause or error}", key))
    # A bare AnthropicError: an ended batch without `results_url`.
    if isinstance(error, Malformed) or type(error) is anthropic.AnthropicError:
        return Failure("retry", billed=True, detail=_shown(str(error), key), http_status=200)
    # RecursionError: JSON nested without end. A plain ValueError: a number of more digits than Python reads.
    unreadable = json.JSONDecodeError | UnicodeDecodeError | RecursionError | anthropic.APIResponseValidationError
    if isinstance(error, unreadable) or (type(error) is ValueError and "integer string conversion" in str(error)):
        return Failure("retry", billed=True, detail=_shown(f"200 with an unreadable body: {error}", key), http_status=200)
    raise error


def _shown(text: str, key: Key) -> str:
    return key.redact(text)[:MAX_DETAIL]


def _status_failure(error, key: Key) -> Failure:
    status = error.status_code
    headers = error.response.headers
    detail = _shown(f"HTTP {status}: {error.message}", key)
    if status in (401, 402, 403, 404) or error.error_code == "enforced_spend_limit_reached":
        return Failure("all", billed=False, detail=detail, http_status=status)
    again = status in (408, 409, 429) or status >= 500
    if headers.get("x-should-retry") in ("true", "false"):
        again = headers["x-should-retry"] == "true"
    return Failure("retry" if again else "request", False, detail, status, _retry_after(headers))


def _retry_after(headers) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`; None when absent or not a number (HTTP dates are not sent by the API)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if seconds >= 0:
            return seconds
    return None
