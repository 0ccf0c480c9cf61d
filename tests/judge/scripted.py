"""A scripted good answer, what it is billed, and what the ledger says of it."""

from pathlib import Path

import polars as pl

from sae_pipeline.judge.calls import read_calls
from sae_pipeline.judge.prices import HIDDEN_INPUT_TOKENS
from sae_pipeline.judge.request import wire_bytes

GOOD = '{"evidence": "near", "score": 0}'
BILLED_USD = (100 * 0.10 + 10 * 0.50) / 1e6  # the scripted message's usage at the table's price


def calls(tmp_path: Path) -> pl.DataFrame:
    return read_calls(tmp_path / "judge")


def worst_usd(judge, request) -> float:
    n_input = wire_bytes(request.wire(judge.settings)) + HIDDEN_INPUT_TOKENS
    return (n_input * 0.20 + request.max_tokens * 0.50) / 1e6
