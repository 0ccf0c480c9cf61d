"""Stage `explanations`: explain every live feature and every control unit offline, and score the explanations by their rules."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.arms import CONTROLS_FILE, control_units, scored_columns
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.explanation_scores import rule_scores, window_scores
from sae_pipeline.interpret.explanation_tables import explanation_table, score_table
from sae_pipeline.interpret.judged_explanations import judged_explanations
from sae_pipeline.interpret.llm_calls import write_calls
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.token_stats import METHOD, TokenStats, promoted_tokens
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import sae_features, save_units
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.progress import bar
from sae_pipeline.store import Outcome
from sae_pipeline.study import Explain, Score
from sae_pipeline.tables.schemas import conform

N_CONTROL_WINDOWS = 20  # random directions, and neurons, that get scores by windows (rules are scored for all of them)
SINGLE_TOKEN = 0.5  # precision and recall from which one token is said to explain a feature


def build_explanations(
    *, size: int, explain: Explain, score: Score, corpus: Path, activations: Path, feature_stats: Path,
    work: Path, embedder: SentenceEmbedder | None = None, judge: AskingJudge | None = None,
) -> Outcome:  # fmt: skip
    """Write `explanations.parquet`, `explanation_scores.parquet`, `llm_calls.parquet` and the control units to `work`.

    The folders are published artefacts. `judge` is asked when `explain.method` is `llm`.
    """
    embedder = embedder or SentenceEmbedder()
    reader = ActivationReader.open(activations)
    index = RuleIndex(TokenTable.of(CorpusReader.open(corpus), reader))
    promoted = _promoted(feature_stats)
    tables: list[pl.DataFrame] = []
    scores: list[pl.DataFrame] = []
    features = sae_features(feature_stats)
    controls = control_units(features, reader, score)
    save_units(controls, work / CONTROLS_FILE)
    if explain.features is not None:
        features = replace(features, explained=np.intersect1d(features.explained, explain.features))
    arms = [features, *controls]
    with bar(f"explanations {size}", sum(len(units.explained) for units in arms), "units") as progress:
        for units in arms:
            explainer = TokenStats(index, units, promoted if units.unit == "sae_feature" else {})
            explanations = explainer.explain(units.ids[units.explained].tolist())
            tables.append(explanation_table(size, explanations))
            by_column = dict(zip(units.explained.tolist(), explanations, strict=True))
            sample = scored_columns(units, score) if units.unit == "sae_feature" else units.explained[:N_CONTROL_WINDOWS].tolist()
            rows = [
                *rule_scores(index, units, explanations, score.seed),
                *window_scores(index, embedder, units, {column: by_column[column] for column in sample}, score.seed),
            ]
            scores.append(score_table(size, units, METHOD, rows))
            progress.update(len(explanations))
    metadata: dict[str, Any] = {}
    if explain.method == "llm":
        assert judge is not None
        judged = judged_explanations(size, arms, explain, score, index, embedder, judge)
        tables += judged.explanations
        scores += judged.scores
        metadata = judged.metadata
    write_calls(judge, "explanations", size, work)
    explained, scored = conform("explanations", pl.concat(tables)), conform("explanation_scores", pl.concat(scores))
    explained.write_parquet(work / "explanations.parquet")
    scored.write_parquet(work / "explanation_scores.parquet")
    offline = pl.col("method") == METHOD
    return Outcome(metadata=_metadata(explained.filter(offline), scored.filter(offline)) | metadata)


def _promoted(feature_stats: Path) -> dict[int, tuple[str, ...]]:
    frame = pl.read_parquet(feature_stats / "feature_logits.parquet", columns=["feature", "sign", "rank", "token"])
    return promoted_tokens(frame.filter(pl.col("sign") == "+").sort("feature", "rank").select("feature", "token").rows())


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
