"""What keeps the browser private: Host and Origin checks, a token away from loopback, a strict content policy, bounded bodies.

Plain ASGI, so that streams pass through untouched.
"""

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64 * 1024
MAX_PATH = 300  # characters; Python refuses to read a whole number of more than 4,300 digits
LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "sae_pipeline_token"
# Referrer-Policy is not `no-referrer`: with that, browsers send `Origin: null` and the Origin check could not work.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware around the whole application. `token`: None on loopback; elsewhere every visitor needs it."""

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        await self.app(scope, _bounded(receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        # A page elsewhere may point a name of its own at 127.0.0.1: only our own names are answered.
        if self.token is None and _hostname(host) not in LOOPBACK:
            return PlainTextResponse("This server answers to localhost only.", 421)
        if len(scope["path"]) > MAX_PATH:
            return PlainTextResponse("This address is too long.", 414)
        if scope["method"] not in ("GET", "HEAD"):
            if headers.get("origin", "") != f"{scope['scheme']}://{host}":
                return PlainTextResponse("Requests that change something must come from this server's own pages.", 403)
            if int(headers.get("content-length") or MAX_BODY_BYTES + 1) > MAX_BODY_BYTES:
                return PlainTextResponse(f"At most {MAX_BODY_BYTES} bytes.", 413)
        return self._token_refusal(scope, headers)

    def _token_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if self.token is None or _same(_cookie(headers), self.token):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not _same(given, self.token):
            return PlainTextResponse("Open the address with ?token=... that was printed when the server started.", 401)
        # The token leaves the address bar: from here on it is a cookie.
        answer = RedirectResponse(scope["path"], 303)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return answer


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _bounded(receive: Receive) -> Receive:
    """A body that is longer than it said is cut off: the request then looks broken, which it is."""
    left = MAX_BODY_BYTES

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message.get("body", b""))
            if left < 0:
                return {"type": "http.disconnect"}
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
