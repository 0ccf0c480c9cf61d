"""Who is answered: our own names, our own pages, those who have the token; and how much they may send."""

import time
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sae_pipeline.browser.app import create_app
from sae_pipeline.browser.security import COOKIE, MAX_BODY_BYTES
from sae_pipeline.browser.server import listen, serving
from sae_pipeline.errors import UserError
from sae_pipeline.study import Study
from tests.browser.conftest import ORIGIN


@pytest.mark.parametrize("host", ["127.0.0.1:3001", "localhost:9", "[::1]:3001", "LOCALHOST"])
def test_loopback_names_are_answered(client: TestClient, host: str):
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example:80", "", "[::1", "192.168.1.5:3001"]
)
def test_other_names_are_not_answered(client: TestClient, host: str):
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "https://127.0.0.1:3001", "http://127.0.0.1:3002"])
@pytest.mark.parametrize("path", ["/text", "/steer", "/steer/stream", "/saved"])
def test_requests_from_other_pages_change_nothing(client: TestClient, browsed: tuple[Study, Path], path: str, origin: str):
    answer = client.post(path, json={"size": 32, "text": "x"}, headers={"origin": origin})
    assert answer.status_code == 403


def test_bodies_are_bounded(client: TestClient):
    assert client.post("/text", data={"text": "x" * MAX_BODY_BYTES, "size": "32"}).status_code == 413

    def endless():
        for _ in range(20):
            yield b"x" * 8192

    assert client.post("/text", content=endless()).status_code == 413


def test_headers_forbid_inline_code_framing_and_sniffing(client: TestClient):
    for path in ("/", "/32/1", "/nope", "/32/1.json", "/static/browser.js"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and headers["x-content-type-options"] == "nosniff"


def test_away_from_loopback_a_token_is_needed_and_becomes_a_cookie(browsed: tuple[Study, Path]):
    study, root = browsed
    client = TestClient(create_app(study, root, token="secret"), base_url="http://box.example:3001", follow_redirects=False)
    assert client.get("/").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/static/style.css").status_code == 401
    answer = client.get("/features?token=secret")
    assert answer.status_code == 303 and answer.headers["location"] == "/features"
    assert "httponly" in answer.headers["set-cookie"].lower() and "samesite=strict" in answer.headers["set-cookie"].lower()
    assert client.cookies[COOKIE] == "secret" and client.get("/").status_code == 200
    assert client.post("/text", data={"text": "x"}, headers={"origin": ORIGIN}).status_code == 403


def test_a_cookie_that_is_none_is_no_key(browsed: tuple[Study, Path]):
    study, root = browsed
    client = TestClient(create_app(study, root, token="secret"), base_url="http://box.example")
    assert client.get("/", headers={"cookie": f"{COOKIE}=other; ;;="}).status_code == 401


def test_beside_another_server_it_answers_while_the_block_runs_and_then_stops(browsed: tuple[Study, Path]):
    study, root = browsed
    with serving(study, root, port=38251) as address:
        for _ in range(400):
            try:
                assert urllib.request.urlopen(address, timeout=10).status == 200
                break
            except OSError:
                time.sleep(0.05)
        else:
            pytest.fail("it never answered")
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=10)


def test_the_next_free_port_is_taken_and_foreign_addresses_are_refused():
    first = listen("127.0.0.1", 38211)
    first.listen()
    second = listen("127.0.0.1", 38211)
    assert second.getsockname()[1] > first.getsockname()[1]
    first.close()
    second.close()
    with pytest.raises(UserError, match="no address of this machine"):
        listen("203.0.113.7", 38211)
