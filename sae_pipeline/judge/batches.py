"""Asking through Message Batches at half the price: submit, leave, come back. The `anthropic-batch` backend.

`ask` returns when everything is answered; while batches are running it waits a bounded time and then raises
`BatchesPending`. Whoever asks again, in whichever process, finds the batches in the ledger and goes on from there.
"""

import random
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pydoc import locate
from typing import Any

from sae_pipeline.errors import UserError
from sae_pipeline.judge.batch_api import BatchApi, UnusableBatchId
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.ledger import Entry, InFlight, Ledger, Outcome, OverBudget, reply_from
from sae_pipeline.judge.prices import NANO_PER_USD, Price
from sae_pipeline.judge.reply import Reply, read_message, usage_of
from sae_pipeline.judge.request import Request, Settings, wire_bytes
from sae_pipeline.judge.retry import MAX_DETAIL, Failure, Limits, failure_of
from sae_pipeline.judge.submissions import Submission, Submissions
from sae_pipeline.progress import bar

# The API's limits are 100,000 requests and 256 MB; smaller batches end sooner and fit under a cap more easily.
MAX_REQUESTS, MAX_BYTES = 10_000, 64_000_000
CLOCK_SKEW = timedelta(minutes=5)


class BatchesPending(UserError):
    """Answers are still being made elsewhere; nothing has to stay open for them."""

    def __init__(self, n_requests: int, batch_ids: list[str]) -> None:
        self.n_requests, self.batch_ids = n_requests, batch_ids
        super().__init__(
            "judge (anthropic-batch)", f"{n_requests} answers are still being made in {', '.join(batch_ids)}",
            "Run again later: finished batches are collected and nothing is asked or paid twice.",
        )  # fmt: skip


class BatchJudge:
    """A judge over Message Batches; same interface as `InteractiveJudge`."""

    backend = "anthropic-batch"
    not_run_because = ""

    def __init__(
        self, settings: Settings, price: Price, ledger: Ledger, key: Key, wait_seconds: float, poll_seconds: float = 30.0,
        grace_seconds: float = 60.0, limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.price, self.ledger = settings, price, ledger
        self.n_sent = 0
        """Requests submitted by this object, resubmissions included."""
        self.asked: set[str] = set()
        """Identities of every request that was asked, answered from the ledger or not."""
        self.unanswered: set[str] = set()
        """Of these, the ones that a later run should ask again."""
        self._n_before: dict[str, int] = {}
        self._key, self._wait_seconds, self._poll_seconds, self._grace = key, wait_seconds, poll_seconds, grace_seconds
        self._limits = limits or Limits()
        self._submissions = Submissions(ledger)
        self._jitter = random.Random()

    def ask(self, requests: Iterable[Request], what: str = "judge") -> list[Reply]:
        """Answer every request, in order. Raises `BatchesPending`, and `UserError` when the server refuses a batch as a whole."""
        requests = list(requests)
        shas = [request.sha(self.settings) for request in requests]
        by_sha = dict(zip(shas, requests, strict=True))
        self.asked |= set(shas)
        # What earlier runs tried in vain does not count against the tries of this one.
        self._n_before = {sha: self._submissions.history(sha)[0] for sha in by_sha}
        deadline = time.monotonic() + self._wait_seconds
        with self._api() as api, bar(what, len(by_sha), "calls") as progress:
            while True:
                n_unsettled = self._advance(api)
                waiting, todo = self._sort(by_sha)
                progress.update(len(by_sha) - len(waiting) - len(todo) - progress.n)
                over_budget = self._submit(api, todo, by_sha) if todo else set()
                if len(over_budget) < len(todo):
                    continue
                if not waiting:
                    break
                if time.monotonic() >= deadline:
                    batch_ids = [each.batch_id or "a batch not yet found" for each in self._submissions.unsettled()]
                    raise BatchesPending(len(waiting) + len(todo), batch_ids)
                time.sleep(self._poll_seconds if n_unsettled else min(self._poll_seconds, 1.0))
        replies = [self._reply(sha, by_sha[sha], sha in over_budget) for sha in shas]
        self.unanswered |= {reply.request_sha for reply in replies if reply.ask_again}
        return replies

    def advance(self) -> int:
        """Adopt orphans and collect what has ended; the number of submissions still running."""
        with self._api() as api:
            return self._advance(api)

    # --- one round

    def _advance(self, api: BatchApi) -> int:
        n_running = 0
        unusable: UnusableBatchId | None = None
        for submission in self._submissions.unsettled():
            if submission.batch_id is not None:
                n_running += not self._collect(api, submission, submission.batch_id)
                continue
            try:
                n_running += not self._adopt(api, submission)
            except UnusableBatchId as error:
                unusable = error  # after the others have been collected
        if unusable is not None:
            raise unusable
        return n_running

    def _sort(self, by_sha: dict[str, Request]) -> tuple[list[str], list[str]]:
        """(in a batch or asked by another process, to be submitted); the rest is answered or given up."""
        waiting: list[str] = []
        todo: list[str] = []
        for sha in by_sha:
            if self.ledger.recorded(sha):
                continue
            n_attempts, is_open, was_wrong = self._submissions.history(sha)
            if is_open:
                waiting.append(sha)
            elif not was_wrong and n_attempts - self._n_before[sha] < self._limits.max_attempts:
                todo.append(sha)
        return waiting, todo

    def _submit(self, api: BatchApi, todo: list[str], by_sha: dict[str, Request]) -> set[str]:
        """Submit as much as the caps allow; returns what did not fit."""
        left = set(todo)
        entries: list[Entry] = []
        params: dict[str, dict[str, Any]] = {}
        n_bytes = 0
        for sha in todo:
            wire = by_sha[sha].wire(self.settings)
            size = wire_bytes(wire)
            if len(entries) == MAX_REQUESTS or n_bytes + size > MAX_BYTES:
                break
            n_bytes += size
            params[sha] = wire
            worst = self.price.worst_case_nano(size, by_sha[sha].max_tokens, batch=True)
            entries.append(Entry(by_sha[sha], sha, worst, size))
        try:
            submission_id, taken = self.ledger.open_submission(entries, self.backend, self.settings)
        except OverBudget:
            return left
        except InFlight:
            return set()
        try:
            self._submissions.note(
                submission_id, "created", api.create({entry.request_sha: params[entry.request_sha] for entry in taken})
            )
            self.n_sent += len(taken)
        except UserError:
            raise  # the intent stays open: whatever the server made of it will be looked for and never submitted again
        except Exception as error:
            self._not_created(submission_id, failure_of(error, self._key))
        return left - {entry.request_sha for entry in taken}

    def _not_created(self, submission_id: int, failure: Failure) -> None:
        if failure.verdict == "retry" and failure.http_status != 429:
            # The batch may exist all the same: `_adopt` finds out before anything is submitted again.
            time.sleep(self._limits.wait(1, failure.retry_after, self._jitter.random()))
            return
        self._submissions.never_created(submission_id, failure.detail, failure.http_status)
        if failure.verdict == "retry":
            time.sleep(self._limits.wait(1, failure.retry_after, self._jitter.random()))
            return
        raise UserError(
            "judge (anthropic-batch)", failure.detail, "Mend the key, the model, the judge's settings or the account."
        ) from None

    def _adopt(self, api: BatchApi, submission: Submission) -> bool:
        """Find the batch of an intent whose reply was lost. True when the submission is settled as never created.

        Raises `UnusableBatchId` where only a batch that cannot be named may be the one: it was perhaps made, so it stays open.
        """
        age = datetime.now(UTC) - submission.opened
        if submission.owner_alive and not submission.mine and age < timedelta(seconds=self._limits.attempt_seconds + self._grace):
            return False  # its own process is at it
        claimed = self._submissions.claimed(submission.submission_id)
        members = {member.request_sha for member in self._submissions.members(submission.submission_id)}
        listed = [
            batch for batch in api.listed_since(submission.opened - CLOCK_SKEW) if batch.n_requests == submission.n_requests
        ]
        for batch in reversed(listed):
            if batch.batch_id is None or batch.batch_id in claimed:
                continue
            # A running batch does not tell its ids: it is taken on trust, and disowned if its results turn out to be foreign.
            lines = api.results(batch.batch_id, batch.n_requests) if batch.is_ended else []
            if not batch.is_ended or members & {line.custom_id for line in lines}:
                self._submissions.note(submission.submission_id, "adopted", batch.batch_id)
                return False
        if any(batch.batch_id is None for batch in listed):
            raise UnusableBatchId
        if age < timedelta(seconds=self._grace):
            return False  # it may still appear
        self._submissions.never_created(submission.submission_id, "the batch was never created")
        return True

    def _collect(self, api: BatchApi, submission: Submission, batch_id: str) -> bool:
        """Write the results of an ended batch. True when it was settled."""
        if not api.is_ended(batch_id):
            return False
        answers = {member.request_sha: member for member in self._submissions.members(submission.submission_id)}
        outcomes: dict[str, Outcome] = {}
        for line in api.results(batch_id, submission.n_requests):
            member = answers.get(line.custom_id)
            if member is not None and line.custom_id not in outcomes:  # of duplicated results the first counts
                outcomes[line.custom_id] = self._outcome(line.result, member.answer, member.reserved_nano)
        return self._submissions.settle(submission, outcomes)

    def _outcome(self, result: Any, answer: str, worst_nano: int) -> Outcome:
        if result.type == "errored":
            problem = getattr(getattr(result, "error", None), "error", None)
            kind, said = getattr(problem, "type", None), getattr(problem, "message", None)
            wrong = kind == "invalid_request_error"
            return Outcome("error", 0, self._key.redact(f"{kind}: {said}")[:MAX_DETAIL], http_status=400 if wrong else None)
        if result.type in ("expired", "canceled"):
            return Outcome("error", 0, f"the batch {result.type} it")
        usage = usage_of(getattr(result, "message", None))
        model = locate(answer.replace(":", "."))
        if usage is None or model is None:
            return Outcome("error", worst_nano, "a result without a message", raw=self._key.redact(repr(result))[:2000])
        reading = read_message(result.message, model, self.settings.capabilities.structured, self._key)  # pyright: ignore[reportArgumentType]
        return Outcome(
            reading.status, self.price.cost_nano(usage, batch=True), reading.detail, answers=True,
            category=reading.category, http_status=200, raw=reading.text,
            parsed=reading.value.model_dump_json() if reading.value is not None else None, usage=usage,
        )  # fmt: skip

    # --- helpers

    def _reply(self, sha: str, request: Request, over_budget: bool) -> Reply:
        recorded = self.ledger.recorded(sha)
        if recorded:
            return reply_from(recorded, sha, request.answer)
        nano, n_attempts = self.ledger.spending(sha)
        if over_budget:
            detail, by_run = "the request's worst case does not fit under the spending cap", self.ledger.caps.run_usd is not None
            return Reply(sha, "budget", None, None, detail, nano / NANO_PER_USD, n_attempts, ask_again=by_run)
        wrong = self._submissions.history(sha)[2]
        detail = "the request was refused as wrong" if wrong else "no answer after all tries"
        return Reply(sha, "error", None, None, detail, nano / NANO_PER_USD, n_attempts, ask_again=not wrong)

    def _api(self) -> BatchApi:
        return BatchApi(self._key, self.settings.base_url, self._limits)
