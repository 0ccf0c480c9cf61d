"""The Message Batches endpoints with everything they say checked: what a server names a batch is kept and polled with."""

import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sae_pipeline.errors import UserError
from sae_pipeline.judge.client import client_options
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.retry import Limits, Malformed, failure_of

T = TypeVar("T")
KINDS = ("processing", "succeeded", "errored", "expired", "canceled")
# Real ids are `msgbatch_` and 24 characters. Nothing else may enter the ledger, a message or the path of a request.
BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class UnusableBatchId(UserError):
    """A batch may exist, and its id can be neither kept nor asked for. The message never quotes it."""

    def __init__(self) -> None:
        super().__init__(
            "judge (anthropic-batch)",
            "the server gave a batch a name that is no batch id (at most 128 letters, digits, _ and -) or has the key in it",
            "Its answers stay reserved and nothing is submitted twice: run again once the server lists it under a usable id.",
        )


@dataclass(frozen=True)
class Listed:
    """A batch that the server knows. `batch_id` is None where its id is unusable."""

    batch_id: str | None
    n_requests: int
    is_ended: bool


class BatchApi:
    """One connection to the endpoints. Use as a context manager."""

    def __init__(self, key: Key, base_url: str, limits: Limits) -> None:
        import anthropic

        self._key, self._limits = key, limits
        self._client = anthropic.Anthropic(**client_options(key, base_url, limits.attempt_seconds))
        self._jitter = random.Random()

    def __enter__(self) -> "BatchApi":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def create(self, params: dict[str, dict[str, Any]]) -> str:
        """Submit `params` by custom id, once; the batch's id. Raises what the client raises, `Malformed`, `UnusableBatchId`."""
        batch = self._client.messages.batches.create(
            requests=[{"custom_id": custom_id, "params": each} for custom_id, each in params.items()]  # pyright: ignore[reportArgumentType]
        )
        batch_id = self._usable(_checked(batch).id)
        if batch_id is None:
            raise UnusableBatchId
        return batch_id

    def is_ended(self, batch_id: str) -> bool:
        """Whether all of a batch has ended."""
        retrieve = self._client.messages.batches.retrieve
        return self._get("a batch", lambda: _checked(retrieve(batch_id)).processing_status == "ended")

    def listed_since(self, since: datetime) -> list[Listed]:
        """Batches created after `since`, newest first."""
        return self._get("a list of batches", lambda: self._listed(since))

    def results(self, batch_id: str, n_expected: int) -> list[Any]:
        """All results of an ended batch. A download that stops early is repeated; what is then still missing is missing."""
        lines: list[Any] = []
        for _ in range(3):
            lines = self._get("results", lambda: _readable(self._client.messages.batches.results(batch_id)))
            if len({line.custom_id for line in lines}) >= n_expected:
                break
        return lines

    # --- helpers

    def _listed(self, since: datetime) -> list[Listed]:
        found: list[Listed] = []
        for batch in self._client.messages.batches.list(limit=100):
            counts = _checked(batch).request_counts
            if not isinstance(batch.created_at, datetime) or batch.created_at.tzinfo is None:
                raise Malformed("a time of creation")
            if batch.created_at < since:
                break
            n_requests = sum(getattr(counts, kind) for kind in KINDS)
            found.append(Listed(self._usable(batch.id), n_requests, batch.processing_status == "ended"))
        return found

    def _usable(self, batch_id: object) -> str | None:
        """`batch_id` if it can be kept. An id from which the key had to be cut could not be polled, so it is none."""
        if not isinstance(batch_id, str) or not BATCH_ID.fullmatch(batch_id) or self._key.is_in(batch_id):
            return None
        return batch_id

    def _get(self, wanted: str, call: Callable[[], T]) -> T:
        """A read-only call with the bounded retry loop."""
        n_failed = 0
        while True:
            try:
                return call()
            except (AttributeError, TypeError):
                # What the client raises at an answer of another shape than it expects (`results_url: 7`, a string for a list).
                failure = failure_of(Malformed(wanted), self._key)
            except Exception as error:
                failure = failure_of(error, self._key)
            n_failed += 1
            if failure.verdict != "retry" or n_failed >= self._limits.max_attempts:
                raise UserError("judge (anthropic-batch)", failure.detail, "Run again: submitted batches are not lost.") from None
            time.sleep(self._limits.wait(n_failed, failure.retry_after, self._jitter.random()))


def _checked(batch: Any) -> Any:
    """`batch`; raises `Malformed` where it is none (of HTML the client makes a `str`, of other JSON a batch full of nulls)."""
    from anthropic.types.messages import MessageBatch, MessageBatchRequestCounts

    counts = batch.request_counts if isinstance(batch, MessageBatch) else None
    if not isinstance(counts, MessageBatchRequestCounts) or any(type(getattr(counts, kind)) is not int for kind in KINDS):
        raise Malformed("a batch")
    return batch


def _readable(lines: Iterable[Any]) -> list[Any]:
    """The lines that name a request and say what became of it; a request whose line is not among them has no result."""
    found: list[Any] = []
    for line in lines:
        custom_id, kind = getattr(line, "custom_id", None), getattr(getattr(line, "result", None), "type", None)
        if isinstance(custom_id, str) and isinstance(kind, str):
            found.append(line)
    return found
