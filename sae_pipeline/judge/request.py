"""One question to a judge, its identity, and how it looks on the wire.

The identity (`request_sha`) covers everything that can change an answer: model, endpoint, generation settings, prompt version,
answer schema, the text itself and the vote number. Equal identity means the recorded answer is the answer.
"""

import json
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from sae_pipeline.digests import value_digest

OFFICIAL_API = "https://api.anthropic.com"


@dataclass(frozen=True)
class Capabilities:
    """What an endpoint honours. A server that ignores a field answers 200 all the same, so this is declared or probed."""

    structured: bool
    """The reply obeys `output_config.format`."""
    batches: bool
    """Message Batches exist."""
    temperature: bool
    """Sampling temperature is accepted (current hosted models refuse it)."""


@dataclass(frozen=True)
class Settings:
    """How every question of a judge is asked."""

    model: str
    capabilities: Capabilities
    base_url: str = OFFICIAL_API
    effort: str | None = "low"
    thinking: bool = False
    plumbing: bool = False
    """The model is too small to judge: its answers test the pipes and enter no headline."""


@dataclass(frozen=True)
class Request:
    """One question. `stage` and `subject` say in the ledger what it was about; they are not part of its identity."""

    stage: str
    subject: str
    prompt: str
    """Name and version of the prompt file, e.g. `explain-v1`."""
    prompt_sha: str
    system: str
    user: str
    answer: type[BaseModel]
    """A model with `extra="forbid"`; ranges as `Literal`, because bounds do not reach the wire as bounds."""
    max_tokens: int
    vote: int = 0

    def sha(self, settings: Settings) -> str:
        """The request's identity under `settings`, hex SHA-256."""
        capabilities = asdict(settings.capabilities)
        del capabilities["batches"]  # the same question, whichever way it travels
        return value_digest(
            {
                "model": settings.model, "base_url": settings.base_url, "effort": settings.effort, "thinking": settings.thinking,
                "capabilities": capabilities, "prompt": self.prompt, "prompt_sha": self.prompt_sha, "system": self.system,
                "user": self.user, "answer": _schema(self.answer), "max_tokens": self.max_tokens, "vote": self.vote,
            }
        )  # fmt: skip

    def wire(self, settings: Settings) -> dict[str, Any]:
        """Arguments of `messages.create` (and the `params` of a batched request)."""
        schema = _wire_schema(self.answer)
        system = self.system
        output_config: dict[str, Any] = {"effort": settings.effort} if settings.effort else {}
        if settings.capabilities.structured:
            output_config["format"] = {"type": "json_schema", "schema": schema}
        else:
            system += f"\n\nReply with one JSON object that obeys this schema, and nothing else:\n{json.dumps(schema)}"
        params: dict[str, Any] = {
            "model": settings.model,
            "max_tokens": self.max_tokens,
            "system": system,
            "messages": [{"role": "user", "content": self.user}],
        }
        if output_config:
            params["output_config"] = output_config
        if not settings.thinking and settings.effort:
            # Thinking is on by default on current hosted models and its tokens count against max_tokens.
            params["thinking"] = {"type": "disabled"}
        if settings.capabilities.temperature:
            params["extra_body"] = {"temperature": 0}
        return params


@cache
def _schema(answer: type[BaseModel]) -> dict[str, Any]:
    # Written anew for every request, a schema costs more than the rest of it.
    return answer.model_json_schema()


@cache
def _wire_schema(answer: type[BaseModel]) -> dict[str, Any]:
    import anthropic

    return anthropic.transform_schema(answer)


def wire_bytes(params: dict[str, Any]) -> int:
    """Bytes of the request body: an upper bound for its tokens, because a token is at least one byte."""
    return len(json.dumps(params, ensure_ascii=False).encode())
