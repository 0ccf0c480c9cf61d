"""The model behind the pages: reading and steering agree with the library, one at a time, stopped when nobody listens."""

import asyncio
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from sae_pipeline.browser.app import create_app
from sae_pipeline.browser.parameters import Attributing, Refused, Steering
from sae_pipeline.browser.playground import Busy, Playground, Stopped
from sae_pipeline.errors import UserError
from sae_pipeline.store import ArtifactStore, Manifest
from sae_pipeline.study import Study
from tests.browser.conftest import ORIGIN
from tests.browser.world import random_sae

STEER = {"size": 32, "features": {"1": 2.0}, "prompt": "the ship", "max_new_tokens": 6, "seed": 3, "temperature": 1.0}


@pytest.fixture(scope="module")
def playground(browsed: tuple[Study, Path]) -> Playground:
    study, root = browsed
    return Playground(study, root / study.name, "cpu")


def run(**change) -> Steering:
    return Steering.model_validate(STEER | change)


def events(answer) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]


def test_reading_a_text_agrees_with_the_dense_encoder(playground: Playground):
    read = playground.read("the ship of the island", 32, n_features=3)
    model, sae = playground.model, playground.sae(32)
    ids = model.tokenize("the ship of the island", bos=True)
    r_ND = model.residual(torch.tensor([ids]))[0].float()
    f_NF = sae.encode(r_ND)
    error_N = (r_ND - sae.decode(f_NF)).square().sum(1) / r_ND.square().sum(1)
    assert len(read) == len(ids) and read[0].masked == "position 0" and read[0].features == []
    for at in range(1, len(ids)):
        n_active = int((f_NF[at] > 0).sum())
        strongest = f_NF[at].topk(min(3, n_active))
        assert [feature for feature, _ in read[at].features] == strongest.indices.tolist()
        assert [value for _, value in read[at].features] == pytest.approx(strongest.values.tolist(), rel=1e-4)
        assert read[at].error == pytest.approx(float(error_N[at]), rel=1e-4)


def test_the_text_page_shows_tokens_features_and_refuses_nonsense(client: TestClient):
    answer = client.post("/text", data={"text": "the ship <b>of</b> the island", "size": "64"})
    assert answer.status_code == 200 and "<b>" not in answer.text and "Strongest in the whole text" in answer.text
    assert 'href="/64/' in answer.text
    assert client.post("/text", data={"text": "", "size": "64"}).status_code == 400
    assert client.post("/text", data={"text": "word " * 790, "size": "64"}).status_code == 400
    assert client.post("/text", data={"text": "word", "size": "48"}).status_code == 400


def test_the_attribution_page_shows_the_grid_switches_a_cell_off_and_names_mistakes(client: TestClient, playground: Playground):
    asked = {"prompt": "the ship of the <b>island</b>", "target": "a", "baseline": "b", "size": "32"}
    assert 'name="target" value=" are"' in client.get("/attribute").text
    answer = client.post("/attribute", data=asked)
    assert answer.status_code == 200 and "<b>island" not in answer.text and "Click a cell" in answer.text
    with playground.turn():
        found, _, _, is_exact = playground.attribute(Attributing.model_validate(asked))
    assert is_exact and len(found.position_P) > 3
    pair = int(found.attribution_P.abs().argmax())
    cell = f"{found.position_P[pair]}:{found.feature_P[pair]}"
    assert f'value="{cell}"' in answer.text
    switched = client.post("/attribute", data=asked | {"cell": cell})
    with playground.turn():
        _, _, effect, _ = playground.attribute(Attributing.model_validate(asked | {"cell": cell}))
    assert effect is not None and f"effect is <b>{effect:+.3f}</b>" in switched.text
    assert 'aria-pressed="true"' in switched.text
    for change, says in (
        ({"target": "ab cd ef"}, "tokens"), ({"baseline": "a"}, "target itself"), ({"cell": "0:0"}, "not active"),
        ({"cell": "x"}, "cell"), ({"size": "48"}, "no size"), ({"prompt": ""}, "prompt"),
    ):  # fmt: skip
        refused = client.post("/attribute", data=asked | change)
        assert refused.status_code == 400 and says in refused.text, change


def test_streamed_and_plain_runs_say_the_same_and_follow_the_seed(client: TestClient):
    streamed = events(client.post("/steer/stream", json=STEER))
    final = streamed[-1]
    assert (
        final["done"] and any(event.get("side") == 0 for event in streamed) and any(event.get("side") == 1 for event in streamed)
    )
    assert [event for event in streamed if event.get("side") == 1][-1]["text"] == final["steered"]
    assert events(client.post("/steer/stream", json=STEER))[-1] == final
    assert events(client.post("/steer/stream", json=STEER | {"seed": 4}))[-1]["unsteered"] != final["unsteered"]
    form = {key: str(value) for key, value in STEER.items() if key != "features"} | {"feature": "1", "factor": "2.0"}
    plain = client.post("/steer", data=form)
    assert plain.status_code == 200 and 'name="steered"' in plain.text


def test_a_factor_changes_the_steered_side_only(playground: Playground):
    quiet, threads = threading.Event(), lambda side, text: None
    weak = playground.steer(run(features={1: 0.0}), {1: 10.0}, threads, quiet)
    strong = playground.steer(run(features={1: 15.0}), {1: 10.0}, threads, quiet)
    assert weak[0] == strong[0] and weak[1] != strong[1]


def test_one_at_a_time_and_the_rest_hear_busy(browsed: tuple[Study, Path]):
    study, root = browsed
    app = create_app(study, root)
    client = TestClient(app, base_url=ORIGIN, headers={"origin": ORIGIN})
    playground = app.state.browser.playground
    with playground.turn():
        for path, body in (("/text", {"text": "x", "size": "32"}), ("/steer/stream", STEER)):
            answer = client.post(path, headers={"accept": "application/json"}, json=body)
            assert answer.status_code == 429 and "somebody else" in answer.json()["error"]
        with pytest.raises(Busy):
            playground.take_turn()
    assert events(client.post("/steer/stream", json=STEER))[-1]["done"], "the turn was not given back"


def test_a_refused_or_failed_run_gives_the_turn_back(client: TestClient):
    too_long = client.post("/steer/stream", json=STEER | {"prompt": "word " * 790})
    assert "tokens; at most" in events(too_long)[-1]["error"]
    assert events(client.post("/steer/stream", json=STEER))[-1]["done"]


def test_generation_stops_when_nobody_listens(playground: Playground):
    stop, seen = threading.Event(), []

    def follow(side: int, text: str) -> None:
        seen.append(text)
        if len(seen) == 3:
            stop.set()

    with pytest.raises(Stopped):
        playground.steer(run(max_new_tokens=200), {1: 10.0}, follow, stop)
    assert len(seen) == 3


def test_a_visitor_who_leaves_frees_the_model(browsed: tuple[Study, Path]):
    """A stream whose reader goes away after the first event: the worker ends and the next one is served."""
    study, root = browsed
    app = create_app(study, root)
    body = json.dumps(STEER | {"max_new_tokens": 200}).encode()
    headers = [(b"host", b"127.0.0.1"), (b"origin", b"http://127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/steer/stream", "raw_path": b"/steer/stream", "query_string": b"", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80), "headers": [*headers, (b"content-length", str(len(body)).encode())],
    }  # fmt: skip

    async def visit() -> int:
        sent, left = [], asyncio.Event()
        incoming = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive():
            first = next(incoming, None)
            if first is None:
                await left.wait()
                return {"type": "http.disconnect"}
            return first

        async def send(message):
            sent.append(message)
            if message["type"] == "http.response.body":
                left.set()

        await app(scope, receive, send)
        return len(sent)

    n_sent = asyncio.run(visit())
    client = TestClient(app, base_url=ORIGIN, headers={"origin": ORIGIN})
    for _ in range(100):
        answer = client.post("/steer/stream", json=STEER)
        if answer.status_code == 200:
            break
        threading.Event().wait(0.05)
    assert n_sent < 150 and events(answer)[-1]["done"]


@pytest.mark.parametrize(
    "change",
    [{"features": {"1": 21}}, {"features": {}}, {"features": {"99": 1}}, {"features": {"5": 1}}, {"features": {"1": "nan"}},
     {"features": {str(i): 1 for i in range(6)}}, {"size": 48}, {"max_new_tokens": 201}, {"prompt": ""}, {"mode": "explode"},
     {"temperature": -1}, {"features": 5}, {"features": None}, {"features": [{"a": 1}]}, {"prompt": "a\ud800b"}],
)  # fmt: skip
def test_steering_is_bounded(client: TestClient, change: dict):
    headers = {"content-type": "application/json", "accept": "application/json"}
    answer = client.post("/steer/stream", content=json.dumps(STEER | change), headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff\xfe", b'"x"', b"[" * 50_000])
def test_broken_bodies_are_refused(client: TestClient, body: bytes):
    headers = {"content-type": "application/json", "accept": "application/json"}
    assert client.post("/steer/stream", content=body, headers=headers).status_code == 400


def test_saved_runs_are_files_of_the_study_and_come_back(client: TestClient, browsed: tuple[Study, Path]):
    study, root = browsed
    run = STEER | {"unsteered": "calm <i>", "steered": "ship ship"}
    url = client.post("/saved", json=run, headers={"accept": "application/json"}).json()["url"]
    assert client.post("/saved", json=run, headers={"accept": "application/json"}).json()["url"] == url
    file = root / study.name / "saved" / f"{url.removeprefix('/saved/')}.json"
    assert json.loads(file.read_text(encoding="utf-8"))["steered"] == "ship ship"
    page = client.get(url)
    assert page.status_code == 200 and "calm &lt;i&gt;" in page.text and "Saved run" in page.text
    assert url in client.get("/steer").text


def test_a_damaged_saved_run_is_named(client: TestClient, browsed: tuple[Study, Path]):
    study, root = browsed
    file = root / study.name / "saved" / "steer-00000000000a.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"size": 3', encoding="utf-8")
    answer = client.get("/saved/steer-00000000000a")
    file.unlink()
    assert answer.status_code == 503 and f"{file} is damaged" in answer.text.replace(":", "")


def test_attributions_of_a_model_of_16_bits_are_computed_in_32(browsed: tuple[Study, Path], playground: Playground, monkeypatch):
    study, root = browsed
    asked = {"prompt": "the ship of the island", "target": "a", "baseline": "b", "size": "32", "cell": None}
    expected, *_ = playground.attribute(Attributing.model_validate(asked))
    coarse = study.model_copy(update={"model": study.model.model_copy(update={"dtype": "bfloat16"})})
    found, _, _, is_exact = Playground(coarse, root / study.name, "cpu").attribute(Attributing.model_validate(asked))
    assert is_exact and torch.equal(found.attribution_P, expected.attribution_P)
    assert found.logit_difference == expected.logit_difference
    monkeypatch.setattr("sae_pipeline.browser.playground.MAX_EXACT_PARAMETERS", 10)  # too large a model for a second one
    rounded, _, _, is_exact = Playground(coarse, root / study.name, "cpu").attribute(Attributing.model_validate(asked))
    assert not is_exact and rounded.logit_difference != expected.logit_difference


def test_a_retrained_sae_is_read_again(browsed: tuple[Study, Path], tmp_path: Path):
    study, _ = browsed
    playground = Playground(study, tmp_path, "cpu")
    random_sae(32).save(tmp_path / "sae" / "32")
    first = playground.sae(32)
    assert playground.sae(32) is first
    weights = tmp_path / "sae" / "32" / "weights.safetensors"
    os.utime(weights, ns=(1, 1))
    assert playground.sae(32) is not first


def test_texts_that_are_too_long_are_refused_before_the_model_reads(playground: Playground):
    with pytest.raises(Refused, match="at most 512"):
        playground.read("word " * 790, 32)


def test_artefacts_of_another_model_are_named(browsed: tuple[Study, Path], tmp_path: Path):
    study, _ = browsed
    random_sae(32, d_model=48).save(tmp_path / "sae" / "32")
    with pytest.raises(UserError, match="width 48, the study's model has 32"):
        Playground(study, tmp_path, "cpu").read("the ship", 32)
    folder = ArtifactStore(study, tmp_path).path("activations")
    folder.mkdir(parents=True)
    manifest = Manifest("activations", None, "1", "s", {"model": "of another model"}, {}, "d", "now", 1.0, {})
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest)), encoding="utf-8")
    with pytest.raises(UserError, match="another model than the study names"):
        Playground(study, tmp_path / study.name, "cpu").model  # noqa: B018
