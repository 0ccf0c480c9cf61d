"""How many tokens questions have: asked of the judge's server, which is free but sends their texts there, or counted at home."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sae_pipeline.errors import UserError
from sae_pipeline.judge.client import client_options
from sae_pipeline.judge.key import Key
from sae_pipeline.judge.request import Request, Settings
from sae_pipeline.judge.retry import Limits, failure_of
from sae_pipeline.progress import bar

SECONDS = 60.0  # for everything that is counted at once: a plan must not hang on a server
MAX_CONCURRENCY = 8
LIMITS = Limits(max_attempts=3, first_wait_seconds=0.5)


class CannotCount(Exception):
    """The server cannot be reached, or does not count."""


class TokenCounter(Protocol):
    """Counts the tokens that the judge would be billed for."""

    n_sampled: int
    """Questions of one prompt that are worth counting."""
    error: float
    """Relative error that no sample shows."""

    def questions(self, requests: Sequence[Request]) -> list[int]:
        """Input tokens of each."""
        ...

    def text(self, text: str) -> int:
        """Tokens of a text."""
        ...


class ServerCounter:
    """Asks the judge's server. Raises `CannotCount`, and `UserError` where it refuses the key."""

    n_sampled, error = 12, 0.0

    def __init__(self, key: Key, settings: Settings) -> None:
        self._key, self._settings = key, settings
        self.n_sent = 0
        """Texts sent so far."""

    def questions(self, requests: Sequence[Request]) -> list[int]:
        """Input tokens of each."""
        wires = [request.wire(self._settings) for request in requests]
        return asyncio.run(
            self._count([{k: v for k, v in wire.items() if k not in ("max_tokens", "extra_body")} for wire in wires])
        )

    def text(self, text: str) -> int:
        """Tokens of a text, and a few for the turn around it."""
        turn = {"model": self._settings.model, "messages": [{"role": "user", "content": text}]}
        return asyncio.run(self._count([turn]))[0]

    async def _count(self, bodies: Sequence[dict[str, Any]]) -> list[int]:
        import anthropic

        client = anthropic.AsyncAnthropic(**client_options(self._key, self._settings.base_url, SECONDS))
        free = asyncio.Semaphore(MAX_CONCURRENCY)
        with bar("counting tokens", len(bodies), "texts") as progress:

            async def one(body: dict[str, Any]) -> int:
                async with free:
                    self.n_sent += 1
                    n_tokens = await self._one(client, body)
                progress.update(1)
                return n_tokens

            try:
                async with client, asyncio.timeout(SECONDS):
                    counted = await asyncio.gather(*(one(body) for body in bodies))
            except Exception as error:
                # A 200 that is no count is a `str` or a broken body: then this is no server that counts.
                failure = None if isinstance(error, AttributeError) else failure_of(error, self._key)
                detail = failure.detail if failure else "not an answer of a Messages API"
                if failure and failure.http_status in (401, 403):
                    raise UserError(
                        "judge", f"the key is refused ({detail})", "Mend the key, or plan without --count-tokens."
                    ) from None
                raise CannotCount(detail) from None
        if not all(isinstance(n_tokens, int) and n_tokens > 0 for n_tokens in counted):
            raise CannotCount("not an answer of a Messages API")
        return counted

    async def _one(self, client: Any, body: dict[str, Any]) -> int:
        n_failed = 0
        while True:
            try:
                return (await client.messages.count_tokens(**body)).input_tokens
            except AttributeError:
                raise  # no fault of the network
            except Exception as error:
                failure, n_failed = failure_of(error, self._key), n_failed + 1
                if failure.verdict != "retry" or n_failed >= LIMITS.max_attempts:
                    raise
                await asyncio.sleep(LIMITS.wait(n_failed, failure.retry_after, random.random()))


class HomeCounter:
    """Counts with a tokenizer of ours, by `n_tokens`; the judge's own may need a quarter more or less."""

    n_sampled, error = 48, 0.25

    def __init__(self, n_tokens: Callable[[str], int], settings: Settings) -> None:
        self._n_tokens, self._settings = n_tokens, settings

    def questions(self, requests: Sequence[Request]) -> list[int]:
        """Input tokens of each: its two texts and the schema of its answer."""
        return [self._question(request.wire(self._settings)) for request in requests]

    def text(self, text: str) -> int:
        """Tokens of a text."""
        return self._n_tokens(text)

    def _question(self, wire: dict[str, Any]) -> int:
        schema = wire.get("output_config", {}).get("format", {}).get("schema")
        texts = [wire["system"], *(turn["content"] for turn in wire["messages"]), *([json.dumps(schema)] if schema else [])]
        return sum(self._n_tokens(text) for text in texts)
