"""Reading a ledger as a table, from whichever process, while others write."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sae_pipeline.judge.ledger import LEDGER
from sae_pipeline.judge.prices import NANO_PER_USD


def read_calls(folder: Path):
    """Every attempt of a ledger as a polars frame, one row per call (table `llm_calls`), oldest first.

    An open attempt has status `not_run` and its worst case as cost.
    """
    import polars as pl

    columns = {
        "call_id": pl.Int64, "request_sha": pl.String, "run_id": pl.String, "stage": pl.String, "subject": pl.String,
        "backend": pl.String, "model": pl.String, "base_url": pl.String, "prompt": pl.String, "prompt_sha": pl.String,
        "vote": pl.Int32, "status": pl.String, "category": pl.String, "detail": pl.String, "http_status": pl.Int32,
        "raw": pl.String, "parsed": pl.String, "input_tokens": pl.Int64, "output_tokens": pl.Int64,
        "cache_write_tokens": pl.Int64, "cache_read_tokens": pl.Int64, "n_bytes": pl.Int64,
        "reserved_usd": pl.Float64, "cost_usd": pl.Float64,
        "batched": pl.Boolean, "seconds": pl.Float64, "opened": pl.String, "closed": pl.String,
    }  # fmt: skip
    rows: list[tuple] = []
    if (folder / LEDGER).is_file():
        with closing(sqlite3.connect(f"file:{folder / LEDGER}?mode=ro", uri=True, timeout=60)) as db:
            rows = db.execute(
                f"""SELECT attempt_id, request_sha, run_id, stage, subject, backend, model, base_url, prompt, prompt_sha, vote,
                    coalesce(status, 'not_run'), category, coalesce(detail, 'in flight'), http_status, raw, parsed, input_tokens,
                    output_tokens, cache_write_tokens, cache_read_tokens, n_bytes, reserved_nano / {NANO_PER_USD}.0,
                    coalesce(cost_nano, reserved_nano) / {NANO_PER_USD}.0, submission_id IS NOT NULL, seconds, opened, closed
                    FROM attempt LEFT JOIN outcome USING (attempt_id) ORDER BY attempt_id"""
            ).fetchall()
    return pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None)
