"""What a call costs at most before it is sent, and what it did cost afterwards. Whole nano-dollars, so sums are exact.

The table is a dated file (`prices.yaml`); a study may override or add models. No price means no call.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from sae_pipeline.errors import UserError
from sae_pipeline.judge.reply import Usage

NANO_PER_USD = 1_000_000_000
TABLE = Path(__file__).with_name("prices.yaml")
# The API adds tokens of its own to what we send (roles, the instruction that carries the schema).
HIDDEN_INPUT_TOKENS = 1_000


@dataclass(frozen=True)
class Price:
    """USD per million tokens of one model; `cache_write` is the dearer (one hour) rate."""

    input: float
    output: float
    cache_write: float
    cache_read: float
    long_prompt_above_tokens: int | None = None
    long_prompt_factor: float = 1.0
    batch_factor: float = 1.0
    as_of: str = ""
    source: str = ""

    def cost_nano(self, usage: Usage, batch: bool = False) -> int:
        """Cost of a call in nano-dollars, rounded up."""
        # USD per million tokens = 1,000 nano-dollars per token.
        n_prompt = usage.input + usage.cache_write + usage.cache_read
        rate = 1_000 * (self.batch_factor if batch else 1.0)
        if self.long_prompt_above_tokens is not None and n_prompt > self.long_prompt_above_tokens:
            rate *= self.long_prompt_factor
        total = (
            usage.input * self.input + usage.output * self.output
            + usage.cache_write * self.cache_write + usage.cache_read * self.cache_read
        )  # fmt: skip
        return ceil(round(total * rate, 3))

    def worst_case_nano(self, n_bytes: int, max_tokens: int, batch: bool = False) -> int:
        """The most that a request of `n_bytes` can cost: every byte a token at the dearest input rate, the full output."""
        n_input = n_bytes + HIDDEN_INPUT_TOKENS
        dearest = Usage(input=n_input) if self.input >= self.cache_write else Usage(cache_write=n_input)
        return self.cost_nano(Usage(dearest.input, max_tokens, dearest.cache_write, 0), batch)


FREE = Price(0, 0, 0, 0, source="runs on this machine")


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def price_of(model: str, overrides: dict[str, dict[str, float]] | None = None) -> Price:
    """The price of `model`. Raises `UserError` for a model without one: an unknown price cannot be capped."""
    table = _table()
    if overrides and model in overrides:
        own = overrides[model]
        return Price(
            own["input"], own["output"], own.get("cache_write", 2 * own["input"]), own.get("cache_read", own["input"]),
            batch_factor=own.get("batch_factor", 1.0), as_of="in the study", source="judge.prices",
        )  # fmt: skip
    if model not in table["models"]:
        known = ", ".join(sorted(table["models"]))
        raise UserError(
            "judge.model", f"no price is known for {model!r}, so its spending cannot be capped",
            f"Use one of {known}, or add `judge.prices: {{{model}: {{input: ..., output: ...}}}}` (USD per million tokens).",
        )  # fmt: skip
    return Price(**table["models"][model], batch_factor=table["batch_factor"], as_of=str(table["as_of"]), source=table["source"])
