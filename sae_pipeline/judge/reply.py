"""Reading a reply: which of the statuses it is, and the validated value when it is `ok`.

The order matters: a message with usage first (anything else is no answer and is never scored), then refusal, truncation,
emptiness, and only then the strict parse. A refused or unreadable answer has no value: it never turns into a score.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from sae_pipeline.judge.key import Key

# Counts beyond this are no token counts: a broken server must not be able to empty or to overflow the books.
MAX_TOKENS_COUNTED = 10**9
MAX_NAME = 100  # characters of what should be one of a few words
Status = Literal["ok", "refusal", "truncated", "invalid", "error", "budget", "not_run"]


@dataclass(frozen=True)
class Usage:
    """Billed tokens of one call. `input` excludes what was written to or read from the prompt cache."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_read: int = 0


@dataclass(frozen=True)
class Reading:
    """What one message says."""

    status: Status
    text: str
    value: BaseModel | None = None
    category: str | None = None
    """Refusal category, where the API names one."""
    detail: str = ""


@dataclass(frozen=True)
class Reply:
    """What became of one request. `value` is set exactly when `status` is `ok`; `cost_usd` is the sum over its attempts."""

    request_sha: str
    status: Status
    value: Any = None
    category: str | None = None
    detail: str = ""
    cost_usd: float = 0.0
    n_attempts: int = 0
    recorded: bool = False
    """Taken from the ledger: nothing was sent for it in this run."""
    ask_again: bool = False
    """No answer, and none for lack of luck or of budget in this run: a later run should ask again."""


def usage_of(message: Any) -> Usage | None:
    """The usage of a well-formed message; None for anything else (HTML under a 200, a message full of nulls)."""
    from anthropic.types import Message
    from anthropic.types import Usage as Billed

    # The client checks no types: any field may hold anything.
    usage = message.usage if isinstance(message, Message) else None
    if not isinstance(usage, Billed):
        return None
    counted = [
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_creation_input_tokens or 0,
        usage.cache_read_input_tokens or 0,
    ]
    if any(type(count) is not int or not 0 <= count <= MAX_TOKENS_COUNTED for count in counted):
        return None
    if not isinstance(message.content, list) or not all(map(_is_block, message.content)):
        return None
    return Usage(*counted)


def _is_block(block: Any) -> bool:
    kind = getattr(block, "type", None)
    return isinstance(kind, str) and (kind != "text" or isinstance(getattr(block, "text", None) or "", str))


def read_message(message: Any, answer: type[BaseModel], structured: bool, key: Key) -> Reading:
    """Read a message that has passed `usage_of`. Endpoints without structured output may wrap the object in a code fence.

    A key that the answer echoes is replaced before anything is parsed: values go into tables and onto pages.
    """
    # A thinking block may come first, so text is gathered by type and never by position.
    text = key.redact("".join(getattr(block, "text", None) or "" for block in message.content if block.type == "text"))
    if message.stop_reason == "refusal":
        named = getattr(message.stop_details, "category", None)
        category = key.redact(str(named))[:MAX_NAME] if named else None
        return Reading("refusal", text, category=category, detail=f"refused ({category or 'no category'})")
    if message.stop_reason in ("max_tokens", "model_context_window_exceeded"):
        return Reading("truncated", text, detail=f"stopped by {message.stop_reason}")
    if not text.strip():
        return Reading("invalid", text, detail=f"no text (stop reason {key.redact(str(message.stop_reason))[:MAX_NAME]})")
    said = text if structured else _without_fence(text)
    try:
        value = answer.model_validate_json(said, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "(answer)"
        return Reading("invalid", text, detail=f"{where}: {first['msg']}")
    # A validated value may still differ from what was said: `true` passes for the literal 1, and of two keys the last one wins.
    if json.dumps(json.loads(said, object_pairs_hook=_by_name)) != json.dumps(_pairs(value.model_dump(mode="json"))):
        return Reading("invalid", text, detail="(answer): a value of another type, or a key twice")
    return Reading("ok", text, value=value)


def _by_name(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(pairs, key=lambda pair: pair[0])


def _pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return _by_name([(name, _pairs(part)) for name, part in value.items()])
    return [_pairs(part) for part in value] if isinstance(value, list) else value


def _without_fence(text: str) -> str:
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") : -3]
    return text
