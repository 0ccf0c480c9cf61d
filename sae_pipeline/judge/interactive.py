"""Asking one request at a time over `messages.create`: the `anthropic` and `local` backends.

A fixed number of workers draws from one iterator, so memory and requests in flight stay bounded however many are asked.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from sae_pipeline.errors import UserError
from sae_pipeline.judge.client import client_options
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.ledger import Entry, InFlight, Ledger, Outcome, OverBudget, Recorded, reply_from
from sae_pipeline.judge.prices import NANO_PER_USD, Price
from sae_pipeline.judge.reply import Reply, read_message, usage_of
from sae_pipeline.judge.request import Request, Settings, wire_bytes
from sae_pipeline.judge.retry import Failure, Limits, failure_of
from sae_pipeline.progress import bar

WAIT_FOR_OTHERS_SECONDS = 0.2
LOOK_FOR_THE_DEAD_SECONDS = 2.0
# Without structured output a model may answer beside the schema; asking again can help, but not for ever.
MAX_INVALID = 3
# When the first requests are all refused as wrong (400), the settings are wrong, and asking thousands more helps nobody.
MAX_REFUSED_AT_START = 8
# So many requests in a row that failed in spite of all retries: the server is down, and the others need not find out one by one.
MAX_GIVEN_UP_IN_A_ROW = 5


class InteractiveJudge:
    """A judge that answers while you wait. What the ledger already has is not asked again."""

    not_run_because = ""

    def __init__(
        self,
        backend: str,
        settings: Settings,
        price: Price,
        ledger: Ledger,
        key: Key,
        max_concurrency: int,
        limits: Limits | None = None,
    ) -> None:
        self.backend, self.settings, self.price, self.ledger = backend, settings, price, ledger
        self.n_sent = 0
        """Requests sent by this object, retries included."""
        self.asked: set[str] = set()
        """Identities of every request that was asked, answered from the ledger or not."""
        self.unanswered: set[str] = set()
        """Of these, the ones that a later run should ask again."""
        self._key, self._max_concurrency, self._limits = key, max_concurrency, limits or Limits()
        self._jitter = random.Random()
        self._not_before = self._looked = self._alone_until = 0.0
        self._n_reserved = 0
        self._n_refused, self._any_answer, self._n_given_up = 0, False, 0
        self._fatal: Failure | None = None

    def ask(self, requests: Iterable[Request], what: str = "judge") -> list[Reply]:
        """Answer every request, in order. Raises `UserError` when the server refuses all of them (key, model, spend limit)."""
        requests = list(requests)
        self.asked |= {request.sha(self.settings) for request in requests}
        return asyncio.run(self._ask(requests, what))

    async def _ask(self, requests: list[Request], what: str) -> list[Reply]:
        import anthropic

        replies: dict[int, Reply] = {}
        todo = iter(enumerate(requests))
        self._fatal, self._not_before, self._n_given_up = None, 0.0, 0
        client = anthropic.AsyncAnthropic(**client_options(self._key, self.settings.base_url, self._limits.attempt_seconds))
        with bar(what, len(requests), "calls") as progress:
            async with client, asyncio.TaskGroup() as group:
                for _ in range(min(self._max_concurrency, len(requests))):
                    group.create_task(self._work(client, todo, replies, progress))
        if self._fatal:
            n_answered = sum(reply.status not in ("error", "budget", "not_run") for reply in replies.values())
            raise UserError(
                f"judge ({self.backend})", self._fatal.detail,
                "Mend the key, the model, the judge's settings or the account (or wait, if the server is down); "
                f"the {n_answered} answers so far are kept and not asked again.",
            ) from None  # fmt: skip
        self.unanswered |= {reply.request_sha for reply in replies.values() if reply.ask_again}
        return [replies[index] for index in range(len(requests))]

    async def _work(self, client: Any, todo: Iterator[tuple[int, Request]], replies: dict[int, Reply], progress: Any) -> None:
        for index, request in todo:
            reply = await self._answer(client, request)
            if self._fatal:
                return
            replies[index] = reply
            progress.update(1)

    async def _answer(self, client: Any, request: Request) -> Reply:
        sha = request.sha(self.settings)
        params = request.wire(self.settings)
        n_bytes = wire_bytes(params)
        entry = Entry(request, sha, self.price.worst_case_nano(n_bytes, request.max_tokens), n_bytes)
        clock = time.monotonic()
        n_failed = 0
        while True:
            while not self._fatal and (pause := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(min(pause, 1.0))
            if self._fatal:
                return self._reply(sha, Outcome("error", 0, "stopped before it was sent"))
            attempt = await self._open(entry)
            if isinstance(attempt, Recorded):
                return reply_from(attempt, sha, request.answer)
            if isinstance(attempt, Outcome):
                capped_by_run = attempt.status == "budget" and self.ledger.caps.run_usd is not None
                return self._reply(sha, attempt, ask_again=capped_by_run or attempt.status != "budget")
            outcome, value, failure = await self._attempt(client, request, params, attempt, entry.reserved_nano, n_failed)
            if failure is None and outcome.answers:
                return self._reply(sha, outcome, value)
            n_failed += 1
            if failure and (failure.verdict == "all" or self._all_refused(failure)):
                self._fatal = self._fatal or failure
            if self._fatal or (failure and failure.verdict == "request"):
                return self._reply(sha, outcome)
            if failure:
                wait = self._limits.wait(n_failed, failure.retry_after, self._jitter.random())
                late = time.monotonic() - clock + wait > self._limits.deadline_seconds
                if late or n_failed >= self._limits.max_attempts:
                    self._give_up(failure)
                    return self._reply(sha, outcome, ask_again=True)
                if failure.retry_after is not None:
                    # The server asked everybody to wait, not only this request.
                    self._not_before = max(self._not_before, time.monotonic() + wait)
                else:
                    await asyncio.sleep(wait)

    def _give_up(self, failure: Failure) -> None:
        self._n_given_up += 1
        if self._n_given_up >= MAX_GIVEN_UP_IN_A_ROW:
            self._fatal = self._fatal or failure

    def _all_refused(self, failure: Failure) -> bool:
        self._n_refused += failure.verdict == "request"
        return self._n_refused >= MAX_REFUSED_AT_START and not self._any_answer

    async def _open(self, entry: Entry) -> int | Recorded | Outcome:
        """An attempt's id, the answer if there is one by now, or why there can be no attempt."""
        deadline = time.monotonic() + self._limits.deadline_seconds
        while True:
            if recorded := self.ledger.recorded(entry.request_sha):
                return recorded
            try:
                attempt = self.ledger.open_attempt(entry, self.backend, self.settings)
                self._n_reserved += 1
                return attempt
            except OverBudget:
                # What is in flight, here or in another process, is reserved at its worst case; room appears as it settles.
                if self._n_reserved == 0 and (self._is_alone() or time.monotonic() > deadline):
                    return Outcome("budget", 0, "the next call's worst case does not fit under the spending cap")
                await self._wait_for_others(0.01 if self._n_reserved else WAIT_FOR_OTHERS_SECONDS)
            except InFlight as other:
                if other.in_batch:
                    return Outcome("not_run", 0, "it is in a batch that has not ended; `backend: anthropic-batch` collects it")
                if time.monotonic() > deadline:
                    return Outcome("error", 0, "another process has been asking this for too long")
                await self._wait_for_others(WAIT_FOR_OTHERS_SECONDS)

    def _is_alone(self) -> bool:
        """Nobody has anything in flight; looked up now and then, for there may be thousands of questions left."""
        if time.monotonic() > self._alone_until and not self.ledger.is_anything_in_flight():
            self._alone_until = time.monotonic() + WAIT_FOR_OTHERS_SECONDS
        return time.monotonic() <= self._alone_until

    async def _wait_for_others(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if seconds == WAIT_FOR_OTHERS_SECONDS and time.monotonic() - self._looked > LOOK_FOR_THE_DEAD_SECONDS:
            self._looked = time.monotonic()
            self.ledger.close_lost()  # whoever we wait for may have died

    async def _attempt(
        self, client: Any, request: Request, params: dict[str, Any], attempt: int, worst_nano: int, n_failed: int
    ) -> tuple[Outcome, Any, Failure | None]:
        """One call and its row in the ledger. Whatever ends it, the attempt is closed."""
        clock = time.monotonic()
        outcome = Outcome("error", worst_nano, "interrupted")
        value: Any = None
        failure: Failure | None = None
        try:
            self.n_sent += 1
            async with asyncio.timeout(self._limits.attempt_seconds):
                message = await client.messages.create(**params)
            usage = usage_of(message)
            if usage is None:
                shown = self._key.redact(message if isinstance(message, str) else repr(message))[:2000]
                failure = Failure("retry", True, "200 without a message", 200)
                outcome = Outcome("error", worst_nano, failure.detail, http_status=200, raw=shown)
            else:
                self._any_answer, self._n_given_up = True, 0
                reading = read_message(message, request.answer, self.settings.capabilities.structured, self._key)
                retryable = (
                    reading.status == "invalid" and not self.settings.capabilities.structured and n_failed + 1 < MAX_INVALID
                )
                value = reading.value
                outcome = Outcome(
                    reading.status, self.price.cost_nano(usage), reading.detail, answers=not retryable,
                    category=reading.category, http_status=200, raw=reading.text,
                    parsed=value.model_dump_json() if value is not None else None, usage=usage,
                )  # fmt: skip
        except Exception as error:
            failure = failure_of(error, self._key)
            outcome = Outcome("error", worst_nano if failure.billed else 0, failure.detail, http_status=failure.http_status)
        finally:
            # Also when this task is cancelled: then the answer may still be made, and is counted at its worst case.
            self._n_reserved -= 1
            self.ledger.close_attempt(attempt, replace(outcome, seconds=round(time.monotonic() - clock, 3)))
        return outcome, value, failure

    def _reply(self, sha: str, outcome: Outcome, value: Any = None, ask_again: bool = False) -> Reply:
        nano, n_attempts = self.ledger.spending(sha)
        usd = nano / NANO_PER_USD
        return Reply(sha, outcome.status, value, outcome.category, outcome.detail, usd, n_attempts, ask_again=ask_again)
