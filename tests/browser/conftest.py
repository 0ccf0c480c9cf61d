"""The browsed study, once per session, and a client that behaves like a browser on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sae_pipeline.browser.app import create_app
from sae_pipeline.study import Study
from tests.browser.world import make_world

ORIGIN = "http://127.0.0.1:3001"


@pytest.fixture(scope="session")
def browsed(tiny_model_folder: Path, tiny_text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """(study, data root)."""
    root = tmp_path_factory.mktemp("browser")
    return make_world(tiny_model_folder, tiny_text_folder, root), root


@pytest.fixture(scope="session")
def client(browsed: tuple[Study, Path]) -> Iterator[TestClient]:
    """Requests as a browser on this machine sends them."""
    study, root = browsed
    with TestClient(create_app(study, root), base_url=ORIGIN, headers={"origin": ORIGIN}, follow_redirects=False) as client:
        yield client
