"""The Message Batches half of the fake server: create, retrieve, list, cancel, results."""

import json
import random
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from tests.fakes.messages_api import FakeMessagesApi

CUSTOM_ID = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")


class BatchStore:
    """Batches by id, newest last. `ends_after` counts the polls until a batch ends."""

    def __init__(self, api: "FakeMessagesApi") -> None:
        self._api = api
        self.ends_after = 0
        self.lose_reply = 0
        """So many of the next creations are made, and then answered with a 500."""
        self.spoil: dict[str, str] = {}
        """custom_id -> expired | canceled | errored | invalid | missing | duplicated; each is used once."""
        self.made: dict[str, dict[str, Any]] = {}
        self.cut_results = 0
        """So many of the next downloads of results stop in the middle of a line."""

    def respond(self, request: Request, body: Any, url: str) -> Response:
        parts = request.url.path.removeprefix("/v1/messages/batches").strip("/").split("/")
        if parts == [""]:
            return self._create(body) if request.method == "POST" else self._list(request)
        if parts[0] not in self.made:
            return _problem(404, "not_found_error", parts[0])
        if parts[1:] == ["results"]:
            return self._results(parts[0])
        batch = self.made[parts[0]]
        batch["polls"] += 1
        return JSONResponse(self._shown(parts[0], url))

    def _create(self, body: dict[str, Any]) -> Response:
        ids = [item["custom_id"] for item in body["requests"]]
        if len(set(ids)) < len(ids) or not all(CUSTOM_ID.match(each) for each in ids) or not ids:
            return _problem(400, "invalid_request_error", "custom_id must be unique and match the pattern")
        batch_id = f"msgbatch_{len(self.made):04d}"
        self.made[batch_id] = {"requests": body["requests"], "polls": 0, "created": datetime.now(UTC), "lines": None}
        if self.lose_reply:
            self.lose_reply -= 1
            return _problem(500, "api_error", "lost")
        return JSONResponse(self._shown(batch_id, self._api.url))

    def _list(self, request: Request) -> Response:
        ids = list(self.made)[::-1]
        after, limit = request.query_params.get("after_id"), int(request.query_params.get("limit", 20))
        start = ids.index(after) + 1 if after else 0
        page = ids[start : start + limit]
        more = start + limit < len(ids)
        shown = [self._shown(each, self._api.url) for each in page]
        ends = {"first_id": page[0] if page else None, "last_id": page[-1] if page else None}
        return JSONResponse({"data": shown, "has_more": more, **ends})

    def _shown(self, batch_id: str, url: str) -> dict[str, Any]:
        batch = self.made[batch_id]
        ended = batch["polls"] > self.ends_after
        lines = self._lines(batch_id) if ended else []
        kinds = [json.loads(line)["result"]["type"] for line in lines]
        n = len(batch["requests"])
        counts = {kind: kinds.count(kind) for kind in ("succeeded", "errored", "expired", "canceled")}
        created = batch["created"]
        return {
            "id": batch_id, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": {"processing": 0 if ended else n, **counts},
            "created_at": created.isoformat(), "expires_at": (created + timedelta(days=1)).isoformat(),
            "ended_at": created.isoformat() if ended else None, "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{url}/v1/messages/batches/{batch_id}/results" if ended else None,
        }  # fmt: skip

    def _lines(self, batch_id: str) -> list[str]:
        batch = self.made[batch_id]
        if batch["lines"] is None:
            lines: list[str] = []
            for item in batch["requests"]:
                how = self.spoil.pop(item["custom_id"], None) or self.spoil.pop("*", None)
                result = self._result(item, how)
                if how != "missing":
                    lines += [json.dumps({"custom_id": item["custom_id"], "result": result})] * (2 if how == "duplicated" else 1)
            random.Random(0).shuffle(lines)
            batch["lines"] = lines
        return batch["lines"]

    def _result(self, item: dict[str, Any], how: str | None) -> dict[str, Any]:
        if how in ("expired", "canceled"):
            return {"type": how}
        if how in ("errored", "invalid"):
            kind = "invalid_request_error" if how == "invalid" else "api_error"
            return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": how}, "request_id": "r"}}
        status, reply = self._api.reply(item["params"])
        if status != 200:
            return {"type": "errored", "error": reply}
        return {"type": "succeeded", "message": reply}

    def _results(self, batch_id: str) -> Response:
        text = "\n".join(self._lines(batch_id)) + "\n"
        if self.cut_results:
            self.cut_results -= 1
            text = text[: len(text) // 2]
        return Response(text, media_type="application/x-jsonl")


def _problem(status: int, kind: str, text: str) -> Response:
    return JSONResponse({"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_fake"}, status)
