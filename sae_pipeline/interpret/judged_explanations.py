"""Explanations by a judge, and what the judge makes of explanations: its own and the offline ones, on held-out windows.

For each sampled unit: detection and fuzzing by the judge, the embedding AUROC of its sentences on the windows of the offline
ones, and whether features are active on new texts written from their explanation. Explainers compare within a metric and scorer.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sae_pipeline.interpret.arms import scored_columns
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.explanation_scores import MetricRow, window_scores
from sae_pipeline.interpret.explanation_tables import explanation_table, score_table
from sae_pipeline.interpret.hard_negatives import NearestWindows
from sae_pipeline.interpret.judged_windows import Question, Shown, detection_windows, fuzzing_windows, judged_rows
from sae_pipeline.interpret.llm_explainer import LlmExplainer, explain_together
from sae_pipeline.interpret.llm_scorers import DETECTION, FUZZING, Item, WindowJudge
from sae_pipeline.interpret.protocols import ARM_OF_UNIT, Control, Explanation
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.sensitivity import FeaturesOf, ask_for_texts, sensitivity_rows
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import derangement
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.study import Explain, Score

Offline = Sequence[Mapping[int, Explanation]]
Promoted = Mapping[int, Sequence[str]]
WINDOWS = {DETECTION: detection_windows, FUZZING: fuzzing_windows}


@dataclass(frozen=True)
class Judged:
    """Tables of explanations and of their scores, and numbers for the metadata."""

    explanations: list[pl.DataFrame]
    scores: list[pl.DataFrame]
    metadata: dict[str, Any]


def judged_explanations(
    size: int, arms: Sequence[Units], offline: Offline, promoted: Promoted, explain: Explain, score: Score, index: RuleIndex,
    embedder: SentenceEmbedder, judge: AskingJudge, features_of: FeaturesOf,
) -> Judged:  # fmt: skip
    """Ask for explanations of the features (`explain.n_judged`, the scored ones first) and of every control, then score them.

    `offline`: the offline explanations by column of each arm. The judge scores these too, on the same windows.
    """
    asked_by = f"explanations/{size}"
    by = (judge.settings.model, judge.settings.plumbing)
    seen = [index.only(units.seen) for units in arms]
    hints = [promoted if units.unit == "sae_feature" else {} for units in arms]
    explainers = [
        LlmExplainer(own.tokens, units, judge, asked_by, score.seed, hint if explain.logit_effects else None)
        for own, units, hint in zip(seen, arms, hints, strict=True)
    ]
    wanted = [(explainer, judged_columns(explainer.units, explain, score)) for explainer in explainers]
    explained = explain_together(judge, wanted)
    method = explainers[0].method
    by_column = [dict(zip(columns, mine, strict=True)) for (_, columns), mine in zip(wanted, explained, strict=True)]
    scored_by_method: dict[str, list[dict[int, Explanation]]] = {
        each.method: [_sampled(units, score, of) for units, of in zip(arms, source, strict=True)]
        for source in (by_column, offline)
        for each in [next(iter(source[0].values()))] if source[0]
    }  # fmt: skip
    rows: dict[tuple[str, int], list[MetricRow]] = {(each, i): [] for each in scored_by_method for i in range(len(arms))}
    nearest = [NearestWindows(own, embedder) for own in seen]
    for prompt, make in WINDOWS.items():
        shown: dict[tuple[int, int], Shown] = {}
        asked: list[tuple[tuple[str, int], Question]] = []
        for each, samples in scored_by_method.items():
            for i, (units, mine) in enumerate(zip(arms, samples, strict=True)):
                for control, column, explanation in _pairings(units, mine, score.seed):
                    if (i, column) not in shown:
                        shown[i, column] = make(seen[i], units, column, nearest[i], score.seed)
                    asked.append(((each, i), Question(units, column, control, explanation, shown[i, column])))
        asker = WindowJudge(index.tokens, judge, prompt, asked_by, score.examples_per_call, score.seed)
        answers = asker.judge_all([[Item(question.explanation, w) for w in question.shown.windows] for _, question in asked])
        for (key, question), scores in zip(asked, answers, strict=True):
            rows[key] += judged_rows(prompt.split("-")[0], question, scores, *by)
    for i, (units, mine) in enumerate(zip(arms, scored_by_method.get(method, []), strict=False)):
        offline_metrics = window_scores(seen[i], embedder, units, mine, score.seed)
        rows[method, i] += [_by_judge(row, by[1]) for row in offline_metrics if row.metric == "embedding_auroc"]
    features = [i for i, units in enumerate(arms) if units.unit == "sae_feature"]
    for each, samples in scored_by_method.items():
        for i in features:
            texts = ask_for_texts(judge, list(samples[i].values()), asked_by)
            rows[each, i] += sensitivity_rows(list(samples[i]), texts, features_of, score.seed, by[1])
    tables = [explanation_table(size, mine) for mine in explained]
    scored = [score_table(size, arms[i], each, mine) for (each, i), mine in rows.items()]
    return Judged(tables, scored, _metadata(judge, method, explained, pl.concat(scored)))


def judged_columns(units: Units, explain: Explain, score: Score) -> list[int]:
    """The columns that the judge is to explain, the scored ones first."""
    everything = units.explained.tolist()
    if units.unit != "sae_feature" or explain.n_judged is None:
        return everything
    first = scored_columns(units, score)
    chosen = set(first)
    return [*first, *(column for column in everything if column not in chosen)][: explain.n_judged]


def _sampled(units: Units, score: Score, of: Mapping[int, Explanation]) -> dict[int, Explanation]:
    columns = scored_columns(units, score) if units.unit == "sae_feature" else units.explained.tolist()
    return {column: of[column] for column in columns if column in of}


def _pairings(units: Units, mine: Mapping[int, Explanation], seed: int) -> Iterator[tuple[Control, int, Explanation]]:
    for column, explanation in mine.items():
        yield ARM_OF_UNIT[units.unit], column, explanation
    ok = [column for column, explanation in mine.items() if explanation.status == "ok"]
    if units.unit == "sae_feature" and len(ok) > 1:
        for column, other in derangement(ok, seed).items():
            yield "shuffled", column, mine[other]


def _by_judge(row: MetricRow, plumbing: bool) -> MetricRow:
    """An offline score of a judge's sentence: who scored needs no belief, who wrote may."""
    return MetricRow(row.column, row.metric, row.control, row.value, row.n, row.status, row.scorer, plumbing)


def _metadata(
    judge: AskingJudge, method: str, explained: Sequence[Sequence[Explanation]], scores: pl.DataFrame
) -> dict[str, Any]:
    status = Counter(each.status for mine in explained for each in mine)
    # Whether the judge's own scores may be believed is not known before its calibration, with the specificity scores.
    believed = scores.filter(~pl.col("plumbing"), pl.col("scorer") != judge.settings.model)
    mean = believed.filter(pl.col("status") == "ok", pl.col("method") == method).group_by("metric", "control").agg(
        pl.col("value").mean()
    )  # fmt: skip
    return {
        "llm_model": judge.settings.model,
        **({"llm_status": f"not_run: {judge.not_run_because}"} if judge.not_run_because else {}),
        "llm_is_plumbing": judge.settings.plumbing,
        "llm_explanations_by_status": dict(sorted(status.items())),
        "llm_requests_sent": judge.n_sent,
        "llm_spent_usd": judge.ledger.committed_usd(),
        **{f"llm_{metric}_{control}": value for metric, control, value in mean.sort("metric", "control").iter_rows()},
    }  # fmt: skip
