"""Batches in the ledger: intents, the batches that came of them, and their results.

An intent is written before a batch is created, because creation is not idempotent: a reply that is lost, or a process that
dies in between, leaves a batch that will be billed. Such an orphan is found again by its time, size and custom ids.
"""

from dataclasses import dataclass
from datetime import datetime

from sae_pipeline.judge.ledger import Ledger, Outcome, is_alive, now


@dataclass(frozen=True)
class Member:
    """An open attempt inside a batch; its custom id is the request's SHA-256."""

    attempt_id: int
    request_sha: str
    answer: str
    reserved_nano: int


@dataclass(frozen=True)
class Submission:
    """A batch that was intended and is not settled. `batch_id` is None while it is not known whether it exists."""

    submission_id: int
    n_requests: int
    opened: datetime
    batch_id: str | None
    owner_alive: bool
    mine: bool
    """Opened by this very process."""


class Submissions:
    """The submissions of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def unsettled(self) -> list[Submission]:
        """Submissions that are neither collected nor known never to have been created, oldest first."""
        found: list[Submission] = []
        for submission_id, n_requests, pid, pid_started, opened in self._ledger.execute(
            """SELECT submission_id, n_requests, pid, pid_started, opened FROM submission s WHERE NOT EXISTS
               (SELECT 1 FROM submission_event e
                WHERE e.submission_id = s.submission_id AND event IN ('collected', 'never_created'))
               ORDER BY submission_id"""
        ):
            last = self._ledger.execute(
                "SELECT event, batch_id FROM submission_event WHERE submission_id = ? ORDER BY rowid DESC LIMIT 1",
                (submission_id,),
            )
            batch_id = last[0][1] if last and last[0][0] in ("created", "adopted") else None
            alive, mine = is_alive(pid, pid_started), (pid, pid_started) == self._ledger.me
            found.append(Submission(submission_id, n_requests, datetime.fromisoformat(opened), batch_id, alive, mine))
        return found

    def members(self, submission_id: int) -> list[Member]:
        """The open attempts of a submission."""
        rows = self._ledger.execute(
            """SELECT attempt_id, request_sha, answer, reserved_nano FROM attempt LEFT JOIN outcome USING (attempt_id)
               WHERE submission_id = ? AND outcome.attempt_id IS NULL""",
            (submission_id,),
        )
        return [Member(*row) for row in rows]

    def note(self, submission_id: int, event: str, batch_id: str | None) -> None:
        """Add an event."""
        self._ledger.execute("INSERT INTO submission_event VALUES (?, ?, ?, ?)", (submission_id, event, batch_id, now()))

    def claimed(self, submission_id: int) -> set[str]:
        """Batches that cannot be this submission's orphan: those of others, and those it has already disowned."""
        rows = self._ledger.execute(
            """SELECT batch_id FROM submission_event e WHERE batch_id IS NOT NULL AND (submission_id = ? OR NOT EXISTS
               (SELECT 1 FROM submission_event d WHERE d.submission_id = e.submission_id AND d.batch_id = e.batch_id
                AND d.event = 'disowned'))""",
            (submission_id,),
        )
        return {row[0] for row in rows}

    def never_created(self, submission_id: int, why: str, http_status: int | None = None) -> None:
        """Close a submission whose batch does not exist: nothing was billed."""
        with self._ledger.transaction():
            for member in self.members(submission_id):
                self._ledger.close_within(member.attempt_id, Outcome("error", 0, why, http_status=http_status))
            self.note(submission_id, "never_created", None)

    def settle(self, submission: Submission, outcomes: dict[str, Outcome]) -> bool:
        """Write every result of an ended batch in one transaction. False (and disowned) when the batch is not this one's.

        A member without a result is closed at its worst case: it may have been billed.
        """
        assert submission.batch_id is not None
        with self._ledger.transaction():
            members = self.members(submission.submission_id)
            if not members:
                return True  # another process was faster
            if not any(member.request_sha in outcomes for member in members):
                self.note(submission.submission_id, "disowned", submission.batch_id)
                return False
            for member in members:
                missing = Outcome("error", member.reserved_nano, "the batch ended without a result for it")
                self._ledger.close_within(member.attempt_id, outcomes.get(member.request_sha, missing))
            self.note(submission.submission_id, "collected", submission.batch_id)
        return True

    def finished_stages(self) -> dict[str, int]:
        """Who asked (`explanations/4096`) -> its last submission, for those that wait for no batch any more."""
        rows = self._ledger.execute(
            """SELECT stage, max(submission_id), max(outcome.attempt_id IS NULL) FROM attempt LEFT JOIN outcome USING (attempt_id)
               WHERE submission_id IS NOT NULL GROUP BY stage ORDER BY stage"""
        )
        return {stage: submission_id for stage, submission_id, is_open in rows if not is_open}

    def progress(self) -> dict[str, tuple[int, int]]:
        """Who asked -> (questions answered, questions in batches that have not ended).

        Batch by batch: the API calls every request of a batch `processing` until the whole of it has ended.
        """
        rows = self._ledger.execute(
            """SELECT stage, count(DISTINCT CASE WHEN answers THEN request_sha END),
                      count(DISTINCT CASE WHEN outcome.attempt_id IS NULL THEN request_sha END)
               FROM attempt LEFT JOIN outcome USING (attempt_id) WHERE submission_id IS NOT NULL GROUP BY stage ORDER BY stage"""
        )
        return {stage: (answered, waiting) for stage, answered, waiting in rows}

    def history(self, request_sha: str) -> tuple[int, bool, bool]:
        """(attempts, whether one is open, whether one was refused as a wrong request) of a request."""
        rows = self._ledger.execute(
            """SELECT outcome.attempt_id IS NULL, http_status FROM attempt LEFT JOIN outcome USING (attempt_id)
               WHERE request_sha = ?""",
            (request_sha,),
        )
        return len(rows), any(row[0] for row in rows), any(row[1] == 400 for row in rows)
