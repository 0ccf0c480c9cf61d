"""The judge's calls behind one artefact, as its part of the table `llm_calls`."""

from pathlib import Path

import polars as pl

from sae_pipeline.judge.calls import read_calls
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.tables.schemas import conform, empty


def unanswered(judge: AskingJudge | None) -> str:
    """What the artefact lacks because a question had no answer for reasons that may pass; empty when it lacks nothing."""
    n = len(judge.unanswered) if judge else 0
    return f"{n} questions to the judge had no answer; the next run asks them again" if n else ""


def write_calls(judge: AskingJudge | None, stage: str, size: int, work: Path) -> None:
    """Write `llm_calls.parquet`: every attempt ever made at the questions that `judge` was asked, in a fixed order."""
    if judge is None:
        empty("llm_calls").write_parquet(work / "llm_calls.parquet")
        return
    calls = (
        read_calls(judge.ledger.path.parent).filter(pl.col("request_sha").is_in(list(judge.asked))).sort("request_sha", "call_id")
    )
    table = calls.select(
        stage=pl.lit(stage),
        size=pl.lit(size, dtype=pl.Int32),
        call_id=pl.int_range(pl.len(), dtype=pl.Int64),
        backend="backend",
        model="model",
        subject="subject",
        prompt="prompt",
        prompt_sha="prompt_sha",
        request_sha="request_sha",
        vote="vote",
        status="status",
        category="category",
        detail="detail",
        raw="raw",
        parsed="parsed",
        n_tokens_input=pl.col("input_tokens").fill_null(0) + pl.col("cache_write_tokens").fill_null(0),
        n_tokens_cached=pl.col("cache_read_tokens").fill_null(0),
        n_tokens_output=pl.col("output_tokens").fill_null(0),
        cost_usd="cost_usd",
        plumbing=pl.lit(judge.settings.plumbing),
    )
    conform("llm_calls", table).write_parquet(work / "llm_calls.parquet")
