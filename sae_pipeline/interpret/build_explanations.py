"""Stage `explanations`: explain every live feature and every control unit offline, and score the explanations by their rules."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.arms import scored_columns, units_of
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.explanation_scores import MetricRow, rule_scores, window_scores
from sae_pipeline.interpret.protocols import ARM_OF_UNIT, Explanation
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.token_stats import METHOD, TokenStats, promoted_tokens
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units
from sae_pipeline.progress import bar
from sae_pipeline.store import Outcome
from sae_pipeline.study import Explain, Score
from sae_pipeline.tables.schemas import conform

SINGLE_TOKEN = 0.5  # precision and recall from which one token is said to explain a feature


def build_explanations(
    *, size: int, explain: Explain, score: Score, corpus: Path, activations: Path, feature_stats: Path,
    work: Path, embedder: SentenceEmbedder | None = None,
) -> Outcome:  # fmt: skip
    """Write `explanations.parquet` and `explanation_scores.parquet` to `work`. The folders are published artefacts."""
    embedder = embedder or SentenceEmbedder()
    reader = ActivationReader.open(activations)
    index = RuleIndex(TokenTable.of(CorpusReader.open(corpus), reader))
    promoted = _promoted(feature_stats)
    tables: list[pl.DataFrame] = []
    scores: list[pl.DataFrame] = []
    arms = units_of(feature_stats, reader, score, explain.features)
    with bar(f"explanations {size}", sum(len(units.explained) for units in arms), "units") as progress:
        for units in arms:
            explainer = TokenStats(index, units, promoted if units.unit == "sae_feature" else {})
            explanations = explainer.explain(units.ids[units.explained].tolist())
            tables.append(_explanation_table(size, explanations))
            by_column = dict(zip(units.explained.tolist(), explanations, strict=True))
            sample = scored_columns(units, score) if units.unit == "sae_feature" else units.explained.tolist()
            rows = [
                *rule_scores(index, units, explanations, score.seed),
                *window_scores(index, embedder, units, {column: by_column[column] for column in sample}, score.seed),
            ]
            scores.append(_score_table(size, units, rows))
            progress.update(len(explanations))
    explained, scored = conform("explanations", pl.concat(tables)), conform("explanation_scores", pl.concat(scores))
    explained.write_parquet(work / "explanations.parquet")
    scored.write_parquet(work / "explanation_scores.parquet")
    return Outcome(metadata=_metadata(explained, scored))


def _promoted(feature_stats: Path) -> dict[int, tuple[str, ...]]:
    frame = pl.read_parquet(feature_stats / "feature_logits.parquet", columns=["feature", "sign", "rank", "token"])
    return promoted_tokens(frame.filter(pl.col("sign") == "+").sort("feature", "rank").select("feature", "token").rows())


def _explanation_table(size: int, explanations: Sequence[Explanation]) -> pl.DataFrame:
    rows = [
        {
            "size": size, "unit": each.unit, "unit_id": each.unit_id,
            "feature": each.unit_id if each.unit == "sae_feature" else None,
            "control": ARM_OF_UNIT[each.unit], "method": each.method, "model": each.model, "text": each.text, "kind": each.kind,
            "rule": each.rule, "status": each.status, "prompt_sha": each.prompt_sha, "n_examples": each.n_examples,
            "cost_usd": each.cost_usd,
        }
        for each in explanations
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=_EXPLANATION_TYPES)


_EXPLANATION_TYPES: dict[str, Any] = {
    "size": pl.Int32, "unit": pl.String, "unit_id": pl.Int32, "feature": pl.Int32, "control": pl.String, "method": pl.String,
    "model": pl.String, "text": pl.String, "kind": pl.String, "rule": pl.String, "status": pl.String, "prompt_sha": pl.String,
    "n_examples": pl.Int64, "cost_usd": pl.Float64,
}  # fmt: skip


def _score_table(size: int, units: Units, rows: Iterable[MetricRow]) -> pl.DataFrame:
    rows = list(rows)
    unit_id = units.ids[[row.column for row in rows]] if rows else np.empty(0, np.int64)
    return pl.DataFrame(
        {
            "size": pl.Series([size] * len(rows), dtype=pl.Int32), "unit": [units.unit] * len(rows), "unit_id": unit_id,
            "feature": pl.Series(unit_id if units.unit == "sae_feature" else [None] * len(rows), dtype=pl.Int32),
            "method": [METHOD] * len(rows), "metric": [row.metric for row in rows], "control": [row.control for row in rows],
            "value": pl.Series([row.value for row in rows], dtype=pl.Float64), "n": [row.n for row in rows],
            "status": [row.status for row in rows],
        },
        schema_overrides={"unit_id": pl.Int32, "n": pl.Int64},
    )  # fmt: skip


def _metadata(explained: pl.DataFrame, scored: pl.DataFrame) -> dict[str, Any]:
    features = explained.filter(pl.col("unit") == "sae_feature")
    ok = scored.filter(pl.col("status") == "ok")
    mean = ok.group_by("metric", "control").agg(pl.col("value").mean(), pl.len()).sort("metric", "control")
    single = (
        ok.filter((pl.col("control") == "baseline") & pl.col("metric").is_in(["rule_precision", "rule_recall"]))
        .group_by("feature")
        .agg((pl.col("value") >= SINGLE_TOKEN).all() & (pl.len() == 2))["value"]
    )
    metadata: dict[str, Any] = {
        "method": f"{METHOD} (no language model)",
        "n_features_explained": features.filter(pl.col("status") == "ok").height,
        "n_features_too_few_examples": features.filter(pl.col("status") == "too_few_examples").height,
        "single_token_share": float(single.mean()) if len(single) else 0.0,  # pyright: ignore[reportArgumentType]
    }
    metadata |= {f"{row['metric']}_{row['control']}": row["value"] for row in mean.iter_rows(named=True)}
    return metadata
