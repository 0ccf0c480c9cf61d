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
from sae_pipeline.interpret.explanation_scores import MINILM, RULE, rule_scores, window_scores
from sae_pipeline.interpret.explanation_tables import explanation_table, score_table
from sae_pipeline.interpret.judged_explanations import judged_explanations
from sae_pipeline.interpret.llm_calls import unanswered, write_calls
from sae_pipeline.interpret.protocols import Explanation
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.score_summaries import summarize
from sae_pipeline.interpret.sensitivity import FeaturesOf
from sae_pipeline.interpret.token_stats import METHOD, TokenStats, promoted_tokens
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import sae_features, save_units
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.progress import bar
from sae_pipeline.store import Outcome
from sae_pipeline.study import Explain, Score
from sae_pipeline.tables.schemas import conform

N_CONTROL_WINDOWS = 20  # random directions, and neurons, that get scores by windows (rules are scored for all of them)
OFFLINE_SCORERS = pl.col("scorer").is_in([RULE, MINILM])
SINGLE_TOKEN = 0.5  # precision and recall from which one token is said to explain a feature


def build_explanations(
    *, size: int, explain: Explain, score: Score, corpus: Path, activations: Path, feature_stats: Path,
    work: Path, random_model: Path | None = None, embedder: SentenceEmbedder | None = None, judge: AskingJudge | None = None,
    features_of: FeaturesOf | None = None,
) -> Outcome:  # fmt: skip
    """Write `explanations`, `explanation_scores`, their summaries, `llm_calls` (Parquet) and the control units to `work`.

    The folders are published artefacts; without `random_model` that control is left out. When `explain.method` is `llm`, `judge`
    is asked, and `features_of` reads what it writes.
    """
    embedder = embedder or SentenceEmbedder()
    reader = ActivationReader.open(activations)
    index = RuleIndex(TokenTable.of(CorpusReader.open(corpus), reader))
    promoted = _promoted(feature_stats)
    tables: list[pl.DataFrame] = []
    scores: list[pl.DataFrame] = []
    features = sae_features(feature_stats)
    controls = control_units(features, reader, score, random_model)
    save_units(controls, work / CONTROLS_FILE)
    if explain.features is not None:
        features = replace(features, explained=np.intersect1d(features.explained, explain.features))
    arms = [features, *controls]
    offline: list[dict[int, Explanation]] = []
    with bar(f"explanations {size}", sum(len(units.explained) for units in arms), "units") as progress:
        for units in arms:
            seen = index.only(units.seen)
            explainer = TokenStats(seen, units, promoted if units.unit == "sae_feature" else {})
            explanations = explainer.explain(units.ids[units.explained].tolist())
            offline.append(dict(zip(units.explained.tolist(), explanations, strict=True)))
            tables.append(explanation_table(size, explanations))
            sample = scored_columns(units, score) if units.unit == "sae_feature" else units.explained[:N_CONTROL_WINDOWS].tolist()
            rows = [
                *rule_scores(seen, units, explanations, score.seed),
                *window_scores(seen, embedder, units, {column: offline[-1][column] for column in sample}, score.seed),
            ]
            scores.append(score_table(size, units, METHOD, rows))
            progress.update(len(explanations))
    metadata: dict[str, Any] = {}
    if explain.method == "llm":
        assert judge is not None and features_of is not None
        judged = judged_explanations(
            size, arms, offline, promoted, explain, score, index, embedder, judge, features_of
        )  # fmt: skip
        tables += judged.explanations
        scores += judged.scores
        metadata = judged.metadata
    write_calls(judge, "explanations", size, work)
    explained, scored = conform("explanations", pl.concat(tables)), conform("explanation_scores", pl.concat(scores))
    explained.write_parquet(work / "explanations.parquet")
    scored.write_parquet(work / "explanation_scores.parquet")
    summaries = summarize(scored, score.seed)
    summaries.write_parquet(work / "explanation_score_summaries.parquet")
    ours = pl.col("method") == METHOD
    metadata = _metadata(explained.filter(ours), summaries.filter(ours, OFFLINE_SCORERS), scored.filter(ours)) | metadata
    return Outcome(metadata=metadata, incomplete=unanswered(judge))


def _promoted(feature_stats: Path) -> dict[int, tuple[str, ...]]:
    frame = pl.read_parquet(feature_stats / "feature_logits.parquet", columns=["feature", "sign", "rank", "token"])
    return promoted_tokens(frame.filter(pl.col("sign") == "+").sort("feature", "rank").select("feature", "token").rows())


def _metadata(explained: pl.DataFrame, summaries: pl.DataFrame, scored: pl.DataFrame) -> dict[str, Any]:
    features = explained.filter(pl.col("unit") == "sae_feature")
    ok = scored.filter(pl.col("status") == "ok")
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
    known = summaries.filter(pl.col("n_scored") > 0)
    metadata |= {f"{row['metric']}_{row['control']}": row["mean"] for row in known.iter_rows(named=True)}
    for row in known.filter(pl.col("n_paired") > 1).iter_rows(named=True):
        interval = ("minus_shuffled", "minus_shuffled_low", "minus_shuffled_high")
        metadata |= {f"{row['metric']}_{name}": row[name] for name in interval}
    return metadata
