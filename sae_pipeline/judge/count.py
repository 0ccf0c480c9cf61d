"""How many tokens questions have, asked of the judge's server. Counting is free, but the texts go there."""

from collections.abc import Sequence

from sae_pipeline.errors import UserError
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.request import Request, Settings
from sae_pipeline.judge.retry import failure_of

SECONDS = 60.0


def count_tokens(key: Key, requests: Sequence[Request], settings: Settings) -> list[int]:
    """Input tokens of each. Raises `UserError` when the server does not count."""
    import anthropic

    client = anthropic.Anthropic(
        api_key=key.reveal(), base_url=settings.base_url, max_retries=2, timeout=SECONDS, open_telemetry=False
    )  # fmt: skip
    counted: list[int] = []
    with client:
        for request in requests:
            wire = {name: value for name, value in request.wire(settings).items() if name not in ("max_tokens", "extra_body")}
            try:
                counted.append(client.messages.count_tokens(**wire).input_tokens)
            except Exception as error:
                detail = key.redact(failure_of(error).detail)
                raise UserError("--count-tokens", detail, "Leave it out, or mend key, model or address.") from None
    return counted
