"""A real browser before a real server on loopback."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, sync_playwright
from starlette.applications import Starlette

from sae_pipeline.browser.app import create_app
from sae_pipeline.browser.server import listen
from sae_pipeline.study import Study
from tests.browser.chromium.visit import Visit

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def app(browsed: tuple[Study, Path]) -> Starlette:
    study, root = browsed
    return create_app(study, root)


@pytest.fixture(scope="module")
def address(app: Starlette) -> Iterator[str]:
    """A real server on loopback."""
    listener = listen("127.0.0.1", 38301)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("The browser tests need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, address: str) -> Iterator[Visit]:
    visit = Visit(chromium, address)
    yield visit
    visit.context.close()
    assert visit.elsewhere == []
    assert visit.complaints == []
