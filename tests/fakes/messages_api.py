"""A loopback server that speaks the Messages API and Message Batches, with scripted faults.

It checks what the real one checks (bearer key, version, required and unknown fields, sampling parameters, custom ids) and bills
by bytes / 4. Faults are taken from `script`, one per request in order of arrival; everything goes over TCP.
"""

import asyncio
import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.fakes.message_batches import BatchStore

ALLOWED = {"model", "max_tokens", "messages", "system", "output_config", "thinking", "metadata", "stop_sequences", "tools"}


@dataclass
class Fault:
    """What to do with one request instead of answering it as asked."""

    status: int = 200
    body: str | bytes | dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    delay: float = 0.0
    reset: bool = False
    half: bool = False


def error(status: int, kind: str = "api_error", code: str | None = None, **headers: str) -> Fault:
    """An API error of the documented shape."""
    details = {"error_code": code} if code else {}
    body = {"type": "error", "error": {"type": kind, "message": f"scripted {status}", "details": details}}
    return Fault(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def message(text: str | None, stop_reason: str = "end_turn", thinking: bool = False, **extra: Any) -> Fault:
    """A well-formed message with this text."""
    content = [{"type": "thinking", "thinking": "hm", "signature": "s"}] if thinking else []
    if text is not None:
        content.append({"type": "text", "text": text})
    return Fault(200, message_body("fake", content, stop_reason, 100, 10, **extra))


def message_body(model: str, content: list, stop_reason: str, n_input: int, n_output: int, **extra: Any) -> dict[str, Any]:
    usage = {"input_tokens": n_input, "output_tokens": n_output, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {
        "id": "msg_fake", "type": "message", "role": "assistant", "model": model, "content": content, "stop_reason": stop_reason,
        "stop_sequence": None, "usage": usage, **extra,
    }  # fmt: skip


def obey(schema: dict[str, Any], seed: str, defs: dict[str, Any] | None = None) -> Any:
    """A value that obeys a JSON schema, chosen by `seed`."""
    defs = defs or schema.get("$defs", {})
    assert defs is not None
    if "$ref" in schema:
        return obey(defs[schema["$ref"].rpartition("/")[2]], seed, defs)
    if "anyOf" in schema:
        return obey(schema["anyOf"][0], seed, defs)
    if "enum" in schema:
        return schema["enum"][int(hashlib.sha256(seed.encode()).hexdigest(), 16) % len(schema["enum"])]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object":
        return {name: obey(part, f"{seed}/{name}", defs) for name, part in schema["properties"].items()}
    if kind == "array":
        return [obey(schema["items"], f"{seed}/{i}", defs) for i in range(max(1, schema.get("minItems", 1)))]
    return {"integer": 0, "number": 0.5, "boolean": False}.get(str(kind), f"text {hashlib.sha256(seed.encode()).hexdigest()[:6]}")


class FakeMessagesApi:
    """Use as a context manager. `answer(body)` may replace the default, which obeys the request's schema."""

    def __init__(self, key: str = "sk-test", delay: float = 0.0, structured: bool = True) -> None:
        self.key = key
        self.reset(delay, structured)

    def reset(self, delay: float = 0.0, structured: bool = True, temperature: bool = False) -> None:
        """Forget everything, so that tests can share one server. By default it honours what the real one does."""
        self.delay, self.structured, self.temperature = delay, structured, temperature
        self.script: list[Fault | None] = []
        self.answer: Callable[[dict[str, Any]], Any] | None = None
        self.count: Callable[[str], int] = lambda text: len(text.encode()) // 4
        """How it counts (and bills) tokens."""
        self.on_arrival: Callable[[str, str], None] | None = None
        """Called with method and path when a request has arrived, before anything is done with it."""
        self.on_done: Callable[[str, str], None] | None = None
        """Called when a request has been carried out (and billed), before the reply is sent."""
        self.mangle: Callable[[str, Any], Any] | None = None
        """Called with the path and each JSON document (of results: each line) of a good reply; what it returns is sent."""
        self.extra_headers: dict[str, str] = {}
        """Of every reply that is not scripted."""
        self.keeps_log = True
        self.log: list[tuple[str, str, dict[str, Any] | None]] = []
        self.headers: list[dict[str, str]] = []
        self.billed: Counter[str] = Counter()
        self.max_in_flight = 0
        self.batches = BatchStore(self)
        self._in_flight = 0

    def __enter__(self) -> "FakeMessagesApi":
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([self._socket])), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()

    def sent(self, path: str = "/v1/messages", method: str = "POST") -> list[dict[str, Any] | None]:
        """Bodies of the requests that arrived at `path`."""
        return [body for m, p, body in self.log if (m, p) == (method, path)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        raw = await request.body()
        body = json.loads(raw) if raw else None
        if self.keeps_log:
            self.log.append((request.method, request.url.path, body))
            self.headers.append(dict(request.headers))
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            if self.on_arrival is not None:
                self.on_arrival(request.method, request.url.path)
            fault = self.script.pop(0) if self.script else None
            if fault is not None:
                await asyncio.sleep(fault.delay)
                if fault.reset:
                    send.__self__.transport.abort()
                    return
                if fault.status != 200 or fault.body is not None or fault.half:
                    await _faulty(fault)(scope, receive, send)
                    return
            await asyncio.sleep(self.delay)
            response = self._spoilt(request.url.path, self._respond(request, body))
            if self.on_done is not None:
                self.on_done(request.method, request.url.path)
            await response(scope, receive, send)
        finally:
            self._in_flight -= 1

    def _respond(self, request: Request, body: Any) -> Response:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            echo = request.headers.get("authorization", "no key")
            return JSONResponse(_error_body("authentication_error", f"invalid key: {echo}"), 401)
        if "anthropic-version" not in request.headers:
            return JSONResponse(_error_body("invalid_request_error", "anthropic-version: header is required"), 400)
        if request.url.path == "/v1/messages/count_tokens":
            return JSONResponse({"input_tokens": self.usage_of(body, "")[0]})
        if request.url.path == "/v1/messages" and request.method == "POST":
            status, reply = self.reply(body)
            return JSONResponse(reply, status)
        if request.url.path.startswith("/v1/messages/batches"):
            return self.batches.respond(request, body, self.url)
        return JSONResponse(_error_body("not_found_error", request.url.path), 404)

    def _spoilt(self, path: str, response: Response) -> Response:
        if self.mangle is not None and response.status_code == 200:
            documents = [json.loads(line) for line in bytes(response.body).splitlines()]
            lines = [json.dumps(self.mangle(path, document)) for document in documents]
            response = Response("\n".join(lines), media_type=response.media_type)
        response.headers.update(self.extra_headers)
        return response

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Check and answer one request; bills it."""
        unknown = sorted(set(body) - ALLOWED - ({"temperature"} if self.temperature else set()))
        if unknown:
            return 400, _error_body("invalid_request_error", f"{unknown[0]}: Extra inputs are not permitted")
        for name in ("model", "max_tokens", "messages"):
            if name not in body:
                return 400, _error_body("invalid_request_error", f"{name}: Field required")
        form = (body.get("output_config") or {}).get("format")
        text = json.dumps(body, sort_keys=True)
        if self.answer is not None:
            value = self.answer(body)
        elif form is not None and self.structured:
            value = obey(form["schema"], text)
        else:
            value = "Hello! How can I help?"
        said = value if isinstance(value, str) else json.dumps(value)
        self.billed[hashlib.sha256(text.encode()).hexdigest()] += 1
        n_input, n_output = self.usage_of(body, said)
        return 200, message_body(body["model"], [{"type": "text", "text": said}], "end_turn", n_input, n_output)

    def usage_of(self, body: dict[str, Any], said: Any) -> tuple[int, int]:
        """(input, output) tokens of a request and its answer: what it sends as text, its schema, and a little for the roles."""
        system = body.get("system") or ""
        texts = [system if isinstance(system, str) else "".join(part["text"] for part in system)]
        texts += [turn["content"] for turn in body["messages"]]
        if form := (body.get("output_config") or {}).get("format"):
            texts.append(json.dumps(form["schema"]))
        said = said if isinstance(said, str) else json.dumps(said)
        return sum(map(self.count, texts)) + 15, self.count(said) + 1


def _error_body(kind: str, text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_fake"}


def _faulty(fault: Fault) -> Any:
    body = json.dumps(fault.body) if isinstance(fault.body, dict) else (fault.body or "")
    if not fault.half:
        return Response(body, fault.status, fault.headers, fault.media_type)

    async def half(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"5000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"id": "msg_1", "type":', "more_body": True})
        await asyncio.sleep(0.02)
        send.__self__.transport.abort()

    return half
