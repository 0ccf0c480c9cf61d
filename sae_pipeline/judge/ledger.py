"""The append-only ledger of everything asked, answered and paid, under `data/<study>/judge/`.

SQLite in WAL mode with full fsync: a committed row survives kill -9 and a power cut, and several processes may write at once.
An attempt's row, with its worst-case cost reserved, is on disk before the request is sent; the outcome's row follows. Hence
the spending cap holds under any concurrency, and what a killed process had in flight stays counted at its worst case.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock
from pydantic import BaseModel

from sae_pipeline.judge.prices import NANO_PER_USD
from sae_pipeline.judge.reply import Reply, Status, Usage
from sae_pipeline.judge.request import Request, Settings

LEDGER = "ledger.sqlite"


@dataclass(frozen=True)
class Caps:
    """Hard spending caps in USD; None means no cap (only sensible where calls are free)."""

    study_usd: float | None
    run_usd: float | None = None


@dataclass(frozen=True)
class Entry:
    """An attempt to be opened: the request, its identity, the most it can cost, and the bytes of its body."""

    request: Request
    request_sha: str
    reserved_nano: int
    n_bytes: int = 0


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `answers`: the request need never be asked again."""

    status: Status
    cost_nano: int
    detail: str = ""
    answers: bool = False
    category: str | None = None
    http_status: int | None = None
    raw: str | None = None
    parsed: str | None = None
    usage: Usage | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Recorded:
    """The recorded answer of a request."""

    status: Status
    category: str | None
    detail: str
    parsed: str | None
    cost_nano: int
    n_attempts: int


class OverBudget(Exception):
    """The next attempt's worst case does not fit under a cap."""


class InFlight(Exception):
    """Another live process, or a batch that has not ended, is asking this, or has just answered it."""

    def __init__(self, in_batch: bool) -> None:
        self.in_batch = in_batch
        super().__init__("in a batch" if in_batch else "in another process")


class Ledger:
    """One process's connection to a study's ledger. Not for use by two threads at once."""

    def __init__(self, folder: Path, run_id: str, caps: Caps) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LEDGER
        self.run_id, self.caps = run_id, caps
        self.me = (os.getpid(), psutil.Process().create_time())
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=60, check_same_thread=False)
        # Turning WAL on does not wait for a second process that does the same, hence a lock around the set-up.
        with FileLock(folder / ".ledger.lock"):
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(Path(__file__).with_name("ledger.sql").read_text(encoding="utf-8"))
        self.close_lost()

    def close(self) -> None:
        """Close the connection (outcomes are already on disk)."""
        self._db.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading

    def recorded(self, request_sha: str) -> Recorded | None:
        """The request's answer, None when it has none yet."""
        row = self._db.execute(
            """SELECT status, category, detail, parsed FROM attempt JOIN outcome USING (attempt_id)
               WHERE request_sha = ? AND answers ORDER BY attempt_id LIMIT 1""",
            (request_sha,),
        ).fetchone()
        if row is None:
            return None
        status, category, detail, parsed = row
        return Recorded(status, category, detail, parsed, *self.spending(request_sha))

    def spending(self, request_sha: str) -> tuple[int, int]:
        """(nano-dollars, attempts) of a request so far, open attempts at their worst case."""
        nano, n = self._db.execute(
            """SELECT sum(coalesce(cost_nano, reserved_nano)), count(*) FROM attempt LEFT JOIN outcome USING (attempt_id)
               WHERE request_sha = ?""",
            (request_sha,),
        ).fetchone()
        return nano or 0, n

    def is_anything_in_flight(self) -> bool:
        """Whether some attempt, of whichever process, is open and not in a batch: what it has reserved may soon be free again."""
        row = self._db.execute(
            """SELECT 1 FROM attempt LEFT JOIN outcome USING (attempt_id)
               WHERE outcome.attempt_id IS NULL AND submission_id IS NULL LIMIT 1"""
        ).fetchone()
        return row is not None

    def committed_usd(self, scope: str = "study") -> float:
        """Dollars spent or reserved, in the study ('study') or in one run (its id)."""
        row = self._db.execute("SELECT nano FROM committed WHERE scope = ?", (scope,)).fetchone()
        return row[0] / NANO_PER_USD if row else 0.0

    # --- writing

    def open_attempt(self, entry: Entry, backend: str, settings: Settings) -> int:
        """Reserve an attempt's worst case and return its id. Raises `OverBudget` or `InFlight`; then nothing is written."""
        with self.transaction():
            if (taken := self._taken(entry.request_sha)) is not None:
                raise InFlight(in_batch=taken)
            if not self._fits(entry.reserved_nano):
                raise OverBudget
            return self._insert(entry, backend, settings, None)

    def close_attempt(self, attempt_id: int, outcome: Outcome) -> None:
        """Write how an attempt ended and release what was reserved above its cost."""
        with self.transaction():
            self.close_within(attempt_id, outcome)

    def close_within(self, attempt_id: int, outcome: Outcome) -> None:
        """`close_attempt` inside a transaction that the caller holds."""
        usage = outcome.usage
        tokens = (usage.input, usage.output, usage.cache_write, usage.cache_read) if usage else (None,) * 4
        self._db.execute(
            f"INSERT INTO outcome VALUES ({', '.join('?' * 15)})",
            (attempt_id, outcome.status, outcome.answers, _storable(outcome.category), _storable(outcome.detail),
             outcome.http_status, _storable(outcome.raw), outcome.parsed, *tokens, outcome.cost_nano, outcome.seconds, now()),
        )  # fmt: skip

    def open_submission(self, entries: Sequence[Entry], backend: str, settings: Settings) -> tuple[int, list[Entry]]:
        """Write the intent to submit a batch: as many entries as the caps allow. Returns (submission id, entries taken).

        Entries that are already open are left out. Raises `OverBudget` when not one fits.
        """
        with self.transaction():
            taken: list[Entry] = []
            total = 0
            for entry in entries:
                if self._taken(entry.request_sha) is not None:
                    continue
                if not self._fits(total + entry.reserved_nano):
                    break
                total += entry.reserved_nano
                taken.append(entry)
            if not taken:
                if any(self._taken(entry.request_sha) is None for entry in entries):
                    raise OverBudget
                raise InFlight(in_batch=True)
            cursor = self._db.execute(
                "INSERT INTO submission (n_requests, pid, pid_started, opened) VALUES (?, ?, ?, ?)",
                (len(taken), *self.me, now()),
            )
            assert cursor.lastrowid is not None
            for entry in taken:
                self._insert(entry, backend, settings, cursor.lastrowid)
            return cursor.lastrowid, taken

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock; everything inside is committed together or not at all."""
        # IMMEDIATE takes the write lock first, so the cap is read and the reservation written with nobody in between.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def execute(self, sql: str, values: Sequence[str | int | float | None] = ()) -> list[tuple]:
        """Run one statement (for `sae_pipeline.judge.submissions`, which shares this connection)."""
        return self._db.execute(sql, values).fetchall()

    # --- helpers

    def _insert(self, entry: Entry, backend: str, settings: Settings, submission_id: int | None) -> int:
        request = entry.request
        cursor = self._db.execute(
            """INSERT INTO attempt (request_sha, run_id, backend, model, base_url, stage, subject, prompt, prompt_sha, vote,
               answer, reserved_nano, n_bytes, submission_id, pid, pid_started, opened)
               VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)""",
            (entry.request_sha, self.run_id, backend, settings.model, settings.base_url, request.stage, request.subject,
             request.prompt, request.prompt_sha, request.vote,
             f"{request.answer.__module__}:{request.answer.__qualname__}", entry.reserved_nano,
             entry.n_bytes, submission_id, *self.me, now()),
        )  # fmt: skip
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _fits(self, nano: int) -> bool:
        for scope, cap_usd in (("study", self.caps.study_usd), (self.run_id, self.caps.run_usd)):
            row = self._db.execute("SELECT nano FROM committed WHERE scope = ?", (scope,)).fetchone()
            if cap_usd is not None and (row[0] if row else 0) + nano > round(cap_usd * NANO_PER_USD):
                return False
        return True

    def _taken(self, request_sha: str) -> bool | None:
        """None when the request has neither an open attempt nor an answer; else whether it is open inside a batch."""
        row = self._db.execute(
            """SELECT outcome.attempt_id IS NULL AND submission_id IS NOT NULL FROM attempt LEFT JOIN outcome USING (attempt_id)
               WHERE request_sha = ? AND (outcome.attempt_id IS NULL OR answers)""",
            (request_sha,),
        ).fetchone()
        return bool(row[0]) if row else None

    def close_lost(self) -> None:
        """Close what dead processes had in flight, at its worst case: the answer may have been made and billed."""
        with self.transaction():
            rows = self._db.execute(
                """SELECT attempt_id, reserved_nano, pid, pid_started FROM attempt LEFT JOIN outcome USING (attempt_id)
                   WHERE outcome.attempt_id IS NULL AND submission_id IS NULL"""
            ).fetchall()
            for attempt_id, reserved_nano, pid, pid_started in rows:
                if not is_alive(pid, pid_started):
                    self.close_within(attempt_id, Outcome("error", reserved_nano, "the process ended before the answer came"))


def _storable(text: str | None) -> str | None:
    """Half a surrogate pair is legal in JSON and in Python, and in no file."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def reply_from(recorded: Recorded, request_sha: str, answer: type[BaseModel]) -> Reply:
    """The reply that the ledger holds."""
    value = answer.model_validate_json(recorded.parsed) if recorded.parsed is not None else None
    return Reply(
        request_sha, recorded.status, value, recorded.category, recorded.detail, recorded.cost_nano / NANO_PER_USD,
        recorded.n_attempts, recorded=True,
    )  # fmt: skip


def is_alive(pid: int, started: float) -> bool:
    """Whether the very process that wrote a row still runs (a reused pid has another start time)."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def now() -> str:
    """The time as ISO 8601 in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
