"""How the installed client is made: our key, no retries of its own, and nothing of a server's words in the log."""

import logging
from typing import Any

from sae_pipeline.judge.key import Key

# At INFO they log addresses (a redirect's, a `results_url`), at DEBUG response headers too: words of the server, which may repeat
# what it was sent. What matters of them is in the ledger, without the key.
LIBRARIES = ("anthropic", "httpx2", "httpcore2")


def client_options(key: Key, base_url: str, seconds: float) -> dict[str, Any]:
    """Arguments of `anthropic.Anthropic` and `anthropic.AsyncAnthropic`; `seconds` bounds each attempt."""
    import anthropic  # noqa: F401  (ANTHROPIC_LOG takes effect at its import, so this must come first)

    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    return {
        "api_key": key.reveal(), "base_url": base_url, "max_retries": 0, "timeout": seconds, "open_telemetry": False,
    }  # fmt: skip
