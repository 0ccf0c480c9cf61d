"""Tables about the work itself: calls of language-model judges, and where every artefact comes from."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import STATUSES, column, count, one_of, table

_SIZE = column(pl.Int32, "Number of features of the SAE; null for stages without sizes", pa.Check.ge(1), nullable=True)

RECORD_TABLES = (
    table(
        "llm_calls",
        "One attempt at asking a language-model judge; empty while every method is offline. What two sizes ask in common stands "
        "under both: sum costs over distinct request_sha, or read the ledger.",
        {
            "stage": column(pl.String, "Stage that asked"),
            "size": _SIZE,
            "call_id": column(pl.Int64, "Call, from 0 within the artefact", pa.Check.ge(0)),
            "backend": column(pl.String, "Judge backend"),
            "model": column(pl.String, "Model that answered"),
            "subject": column(pl.String, "What was asked about"),
            "prompt": column(pl.String, "Prompt file and version"),
            "prompt_sha": column(pl.String, "SHA-256 of the prompt file"),
            "request_sha": column(pl.String, "Identity of the question: everything that can change its answer"),
            "vote": column(pl.Int32, "Number of the vote, from 0", pa.Check.ge(0)),
            "status": column(pl.String, "ok, or why there is no answer", one_of(STATUSES)),
            "category": column(pl.String, "Category of a refusal, where the API names one", nullable=True),
            "detail": column(pl.String, "What went wrong; empty for an answer"),
            "raw": column(pl.String, "Text of the reply as it came", nullable=True),
            "parsed": column(pl.String, "The validated answer (JSON)", nullable=True),
            "n_tokens_input": count("Tokens sent"),
            "n_tokens_cached": count("Tokens sent that were read from the cache"),
            "n_tokens_output": count("Tokens received"),
            "cost_usd": column(pl.Float64, "Cost in dollars; what may have been billed counts at its worst case", pa.Check.ge(0)),
            "plumbing": column(pl.Boolean, "Asked of a model too small to be believed: a test of the pipes"),
        },
        file="<stage>/<size>/llm_calls.parquet", key=("stage", "size", "call_id"),
    ),
    table(
        "lineage",
        "One published artefact: what made it, from what, when and how long it took.",
        {
            "stage": column(pl.String, "Stage (the Dagster asset)"),
            "size": _SIZE,
            "code_version": column(pl.String, "Version of the stage's code"),
            "data_version": column(pl.String, "Digest of the result"),
            "study_digest": column(pl.String, "Digest of the study fields that the stage depends on"),
            "started": column(pl.Datetime("us"), "When its build started (UTC)"),
            "seconds": column(pl.Float64, "How long the build took", pa.Check.ge(0)),
        },
        file="<stage>/<size>/manifest.json", key=("stage", "size"),
    ),
)  # fmt: skip
