"""From the study's `judge` section to a judge that can be asked, with its ledger open."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sae_pipeline.judge.batches import BatchJudge
from sae_pipeline.judge.interactive import InteractiveJudge
from sae_pipeline.judge.key import VARIABLE, Key, NoSecret, find_key
from sae_pipeline.judge.ledger import Caps, Ledger, reply_from
from sae_pipeline.judge.prices import FREE, Price, price_of
from sae_pipeline.judge.probe import probe
from sae_pipeline.judge.reply import Reply
from sae_pipeline.judge.request import OFFICIAL_API, Capabilities, Request, Settings
from sae_pipeline.study import Judge as JudgeSection

HOSTED = Capabilities(structured=True, batches=True, temperature=False)
NO_KEY = f"no judge configured: neither {VARIABLE} nor judge.key_file gives a key"


class AskingJudge(Protocol):
    """What explainers and scorers need of a judge."""

    settings: Settings
    ledger: Ledger
    n_sent: int
    asked: set[str]
    unanswered: set[str]
    not_run_because: str

    def ask(self, requests: Iterable[Request], what: str = "judge") -> list[Reply]:
        """One reply per request, in order. What went wrong with a single request is a status, never an exception."""
        ...


class AbsentJudge:
    """Stands in where there is no key: gives what the ledger holds, everything else is `not_run`. Opens no socket."""

    n_sent = 0
    not_run_because = NO_KEY

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings, self.ledger = settings, ledger
        self.asked: set[str] = set()
        self.unanswered: set[str] = set()  # that there is a key by now is noticed by itself

    def ask(self, requests: Iterable[Request], what: str = "judge") -> list[Reply]:
        """Recorded answers, and `not_run` for the rest."""
        replies: list[Reply] = []
        for request in requests:
            sha = request.sha(self.settings)
            self.asked.add(sha)
            recorded = self.ledger.recorded(sha)
            replies.append(reply_from(recorded, sha, request.answer) if recorded else Reply(sha, "not_run", detail=NO_KEY))
        return replies


def ledger_folder(study_folder: Path) -> Path:
    """Where a study's ledger lives (`data/<study>/judge`)."""
    return study_folder / "judge"


@contextmanager
def open_judge(section: JudgeSection, study_folder: Path, run_id: str) -> Iterator[AskingJudge | None]:
    """The judge of a study, None for backend `none`.

    Raises `UserError` for a model without a price, an unusable key file, and a local server that does not answer.
    """
    if section.backend == "none":
        yield None
        return
    assert section.model is not None
    base_url, price = section.base_url or OFFICIAL_API, price_for(section)
    if section.backend == "local":
        key = key_of(section)
        assert key is not None
        found = probe(base_url, section.model, key)
        plumbing = found.is_small if section.plumbing is None else section.plumbing
        settings = Settings(section.model, found.capabilities, base_url, effort=None, plumbing=plumbing)
    else:
        key = key_of(section)
        settings = Settings(section.model, HOSTED, base_url, section.effort, section.thinking, bool(section.plumbing))
    with Ledger(ledger_folder(study_folder), run_id, Caps(section.budget_usd, section.budget_usd_per_run)) as ledger:
        if key is None:
            yield AbsentJudge(settings, ledger)
        elif section.backend == "anthropic-batch":
            yield BatchJudge(settings, price, ledger, key, wait_seconds=60 * section.batch_wait_minutes)
        else:
            yield InteractiveJudge(section.backend, settings, price, ledger, key, section.max_concurrency)


def key_of(section: JudgeSection) -> Key | None:
    """The judge's key, None when there is none. Any server of this protocol wants some key; a local one does not check it."""
    return NoSecret("local") if section.backend == "local" else find_key(section.key_file)


def price_for(section: JudgeSection) -> Price:
    """The price of the study's model; raises `UserError` when there is none."""
    if section.backend == "local":
        return FREE
    return price_of(section.model or "", {model: price.model_dump(exclude_none=True) for model, price in section.prices.items()})
