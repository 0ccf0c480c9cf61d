"""Does a local server speak the Messages API, and does it honour an output schema? Asked, not assumed.

llama.cpp and Ollama answer 200 and ignore `output_config.format`. So one tiny request asks for a word that no model would say by
itself: if the reply obeys the schema, structured output works; if it is some other text, answers are parsed and asked again.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sae_pipeline.errors import UserError
from sae_pipeline.judge.client import client_options
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.reply import usage_of
from sae_pipeline.judge.request import Capabilities, Request, Settings
from sae_pipeline.judge.retry import failure_of

SECONDS = 120.0
# Nothing smaller has been reported to explain or to judge features usefully (docs/judge.md).
MIN_PARAMETERS = 7e9
_TRY = Capabilities(structured=True, batches=False, temperature=True)


class Odd(BaseModel):
    """An answer that only a server that enforces the schema gives."""

    model_config = ConfigDict(extra="forbid")
    word: Literal["quokka-41"]


@dataclass(frozen=True)
class Found:
    """What a local server can do, and whether its model is too small to judge (or may be: servers need not tell)."""

    capabilities: Capabilities
    is_small: bool


def probe(base_url: str, model: str, key: Key) -> Found:
    """Ask the server at `base_url`. Raises `UserError` when it does not answer as a Messages API does."""
    import anthropic

    request = Request("probe", "capabilities", "probe-v1", "", "You are helpful.", "Say hello.", Odd, 32)
    client = anthropic.Anthropic(**client_options(key, base_url, SECONDS))
    try:
        with client:
            message = client.messages.create(**request.wire(Settings(model, _TRY, base_url, effort=None)))
            is_small = not _n_parameters(client, model) >= MIN_PARAMETERS
    except Exception as error:
        raise UserError(
            "judge.base_url", f"{base_url} does not answer ({failure_of(error, key).detail})",
            "Start a server that speaks the Messages API (`sae-pipeline serve-local`), or correct the address.",
        ) from None  # fmt: skip
    if usage_of(message) is None:
        raise UserError("judge.base_url", f"{base_url} answers, but not as a Messages API does", "Correct the address.")
    text = "".join(block.text or "" for block in message.content if block.type == "text")
    try:
        Odd.model_validate_json(text)
    except ValidationError:
        return Found(Capabilities(structured=False, batches=False, temperature=True), is_small)
    return Found(_TRY, is_small)


def _n_parameters(client: Any, model: str) -> float:
    """What llama.cpp says about its model beside the documented fields of `/v1/models`; 0 where a server says nothing."""
    import anthropic

    try:
        listed = list(client.models.list(limit=100).data)
    except (anthropic.APIError, AttributeError, ValueError, TypeError):
        return 0.0
    for each in listed:
        said = (getattr(each, "model_extra", None) or {}).get("meta")
        if isinstance(said, dict) and isinstance(said.get("n_params"), int | float) and (each.id == model or len(listed) == 1):
            return float(said["n_params"])
    return 0.0
