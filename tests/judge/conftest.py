"""A fake server, fresh for each test, and a judge that talks to it through the installed client."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from sae_pipeline.judge.interactive import InteractiveJudge
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.ledger import Caps, Ledger
from sae_pipeline.judge.prices import price_of
from sae_pipeline.judge.request import Capabilities, Request, Settings
from sae_pipeline.judge.retry import Limits
from tests.fakes.messages_api import FakeMessagesApi

if TYPE_CHECKING:
    from sae_pipeline.interpret.embedding import SentenceEmbedder
    from sae_pipeline.interpret.rules import RuleIndex
    from tests.science.interpret_world import Folders

# Torch and transformers are imported where they are used: the processes that get killed need neither.
HOSTED = Capabilities(structured=True, batches=True, temperature=False)
QUICK = Limits(max_attempts=4, attempt_seconds=2.0, deadline_seconds=5.0, first_wait_seconds=0.01, max_wait_seconds=0.05)
MODEL = "claude-haiku-5-5"


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    evidence: str
    score: Literal[0, 1, 2, 3]


def question(n: int = 0, vote: int = 0) -> Request:
    return Request("rubric", f"item {n}", "rubric-v1", "p" * 64, "Score it.", f"Item {n}", Verdict, 200, vote)


@pytest.fixture(scope="session")
def server() -> Iterator[FakeMessagesApi]:
    with FakeMessagesApi() as server:
        yield server


@pytest.fixture
def api(server: FakeMessagesApi) -> FakeMessagesApi:
    server.reset()
    return server


@pytest.fixture
def open_judge(api: FakeMessagesApi, tmp_path: Path) -> Iterator[Callable[..., InteractiveJudge]]:
    opened: list[Ledger] = []

    def make(cap_usd: float | None = 1.0, run_usd: float | None = None, run_id: str = "run", concurrency: int = 4, **over):
        ledger = Ledger(tmp_path / "judge", run_id, Caps(cap_usd, run_usd))
        opened.append(ledger)
        settings = Settings(MODEL, over.pop("capabilities", HOSTED), api.url)
        limits = over.pop("limits", QUICK)
        return InteractiveJudge("anthropic", settings, price_of(MODEL), ledger, Key("sk-test"), concurrency, limits)

    yield make
    for ledger in opened:
        ledger.close()


@pytest.fixture(scope="session")
def index() -> "RuleIndex":
    from sae_pipeline.interpret.rules import RuleIndex
    from tests.science.interpret_world import make_tokens

    return RuleIndex(make_tokens(n_documents=120))


@pytest.fixture(scope="session")
def embedder() -> "SentenceEmbedder":
    from sae_pipeline.interpret.embedding import SentenceEmbedder

    return SentenceEmbedder()


@pytest.fixture(scope="session")
def folders(index: "RuleIndex", tmp_path_factory: pytest.TempPathFactory) -> "Folders":
    from tests.science.interpret_world import make_units, write_artefacts

    return write_artefacts(tmp_path_factory.mktemp("world"), index.tokens, make_units(index.tokens))
