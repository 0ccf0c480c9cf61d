"""Explanations by a judge, and what a judge, MiniLM and chance make of them on held-out windows.

For each explained unit: detection and fuzzing by the judge (AUROC, balanced accuracy, share of windows answered) and the
embedding AUROC on the same windows as the offline explanations, so that explainers compare within one metric and control.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from sae_pipeline.interpret.arms import scored_columns
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.explanation_scores import MIN_WINDOWS, MetricRow, auroc, detection_examples
from sae_pipeline.interpret.explanation_tables import explanation_table, score_table
from sae_pipeline.interpret.llm_explainer import METHOD, LlmExplainer, explain_together
from sae_pipeline.interpret.llm_scorers import DETECTION, FUZZING, Item, WindowJudge, misplaced
from sae_pipeline.interpret.protocols import ARM_OF_UNIT, Control, Explanation, ScoredWindow, Status
from sae_pipeline.interpret.protocols import Score as Scored
from sae_pipeline.interpret.proxy import parts_of
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import active_examples, derangement, generator
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.study import Explain, Score

SURE = 2  # from here on the judge says yes
N_FUZZED_PER_INTERVAL = 2


@dataclass(frozen=True)
class Judged:
    """Tables of explanations and of their scores, and numbers for the metadata."""

    explanations: list[pl.DataFrame]
    scores: list[pl.DataFrame]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class _Question:
    """Windows of one column under one explanation; `positive[i]`: window i is one that a true explanation fits."""

    units: Units
    column: int
    control: Control
    explanation: Explanation
    windows: list[ScoredWindow]
    positive: np.ndarray


def judged_explanations(
    size: int,
    arms: Sequence[Units],
    explain: Explain,
    score: Score,
    index: RuleIndex,
    embedder: SentenceEmbedder,
    judge: AskingJudge,
) -> Judged:
    """Ask for explanations of the features (`explain.n_judged`, the scored ones first) and of every control, then score them."""
    asked_by = f"explanations/{size}"
    wanted = [(LlmExplainer(index.tokens, units, judge, asked_by, score.seed), _columns(units, explain, score)) for units in arms]
    explained = explain_together(judge, wanted)
    by_column = [dict(zip(columns, mine, strict=True)) for (_, columns), mine in zip(wanted, explained, strict=True)]
    samples = [
        {column: mine[column] for column in _sample(units, score) if column in mine}
        for units, mine in zip(arms, by_column, strict=True)
    ]
    rows: list[list[MetricRow]] = [[] for _ in arms]
    questions: dict[str, list[_Question]] = {DETECTION: [], FUZZING: []}
    for i, (units, mine) in enumerate(zip(arms, samples, strict=True)):
        for control, other in _pairings(units, mine, score.seed):
            for column, explanation in other.items():
                questions[DETECTION].append(_detection(index, units, column, control, explanation, score.seed))
                questions[FUZZING].append(_fuzzing(index, units, column, control, explanation, score.seed))
        rows[i] += _embedding_rows(index, embedder, questions[DETECTION], units)
    of_units = {units.unit: i for i, units in enumerate(arms)}
    for prompt, mine in questions.items():
        asker = WindowJudge(index.tokens, judge, prompt, asked_by, score.examples_per_call, score.seed)
        answers = asker.judge_all([[Item(each.explanation, window) for window in each.windows] for each in mine])
        for question, scores in zip(mine, answers, strict=True):
            rows[of_units[question.units.unit]] += _judged_rows(prompt.split("-")[0], question, scores)
    tables = [explanation_table(size, mine) for mine in explained]
    scores = [score_table(size, units, METHOD, mine) for units, mine in zip(arms, rows, strict=True)]
    return Judged(tables, scores, _metadata(judge, explained, pl.concat(scores)))


def _columns(units: Units, explain: Explain, score: Score) -> list[int]:
    everything = units.explained.tolist()
    if units.unit != "sae_feature" or explain.n_judged is None:
        return everything
    first = scored_columns(units, score)
    chosen = set(first)
    return [*first, *(column for column in everything if column not in chosen)][: explain.n_judged]


def _sample(units: Units, score: Score) -> list[int]:
    return scored_columns(units, score) if units.unit == "sae_feature" else units.explained.tolist()


def _pairings(units: Units, mine: dict[int, Explanation], seed: int) -> Iterator[tuple[Control, dict[int, Explanation]]]:
    yield ARM_OF_UNIT[units.unit], mine
    ok = [column for column, explanation in mine.items() if explanation.status == "ok"]
    if units.unit == "sae_feature" and len(ok) > 1:
        yield "shuffled", {column: mine[other] for column, other in derangement(ok, seed).items()}


def _detection(index: RuleIndex, units: Units, column: int, control: Control, explanation: Explanation, seed: int) -> _Question:
    examples = detection_examples(index.tokens, units, column, seed)
    windows = [example.window(index.tokens.context) for example in examples]
    return _Question(units, column, control, explanation, windows, np.array([each.kind == "active" for each in examples], bool))


def _fuzzing(index: RuleIndex, units: Units, column: int, control: Control, explanation: Explanation, seed: int) -> _Question:
    """Windows with activity; in every second one another, inactive token is highlighted."""
    random = generator(seed, "fuzzing", units, column)
    active, _ = units.held_out.of(column)
    windows: list[ScoredWindow] = []
    positive: list[bool] = []
    for i, example in enumerate(active_examples(units, column, N_FUZZED_PER_INTERVAL, random)):
        window = example.window(index.tokens.context)
        wrong = misplaced(window, active, random) if i % 2 else None
        windows.append(wrong or window)
        positive.append(wrong is None)
    return _Question(units, column, control, explanation, windows, np.array(positive, bool))


def _judged_rows(name: str, question: _Question, scores: Sequence[Scored]) -> Iterator[MetricRow]:
    answered = np.array([each.value is not None for each in scores], bool)
    sure = np.array([each.value or 0 for each in scores], float)[answered]
    positive = question.positive[answered]
    n = int(answered.sum())
    enough = min(positive.sum(), (~positive).sum()) >= MIN_WINDOWS
    column, control = question.column, question.control
    if enough:
        accuracy = 0.5 * ((sure[positive] >= SURE).mean() + (sure[~positive] < SURE).mean())
        yield MetricRow(column, f"judge_{name}_auroc", control, auroc(sure, positive), n, "ok")
        yield MetricRow(column, f"judge_{name}_balanced_accuracy", control, float(accuracy), n, "ok")
    else:
        failed: Counter[Status] = Counter(each.status for each in scores if each.value is None)
        status: Status = failed.most_common(1)[0][0] if failed else "too_few_examples"
        yield MetricRow(column, f"judge_{name}_auroc", control, None, n, status)
        yield MetricRow(column, f"judge_{name}_balanced_accuracy", control, None, n, status)
    if len(scores) and question.explanation.status == "ok":
        yield MetricRow(column, f"judge_{name}_answered", control, n / len(scores), len(scores), "ok")


def _embedding_rows(
    index: RuleIndex, embedder: SentenceEmbedder, questions: Sequence[_Question], units: Units
) -> Iterator[MetricRow]:
    for each in questions:
        if each.units is not units:
            continue
        status = each.explanation.status
        enough = min(each.positive.sum(), (~each.positive).sum()) >= MIN_WINDOWS
        if status != "ok" or not enough:
            failed = status if status != "ok" else "too_few_examples"
            yield MetricRow(each.column, "embedding_auroc", each.control, None, len(each.windows), failed)
            continue
        vectors = embedder.windows([parts_of(index, window) for window in each.windows])[0]
        cosine = vectors @ embedder.texts([each.explanation.about_inputs])[0]
        yield MetricRow(each.column, "embedding_auroc", each.control, auroc(cosine, each.positive), len(cosine), "ok")


def _metadata(judge: AskingJudge, explained: Sequence[Sequence[Explanation]], scores: pl.DataFrame) -> dict[str, Any]:
    status = Counter(each.status for mine in explained for each in mine)
    mean = scores.filter(pl.col("status") == "ok").group_by("metric", "control").agg(pl.col("value").mean())
    return {
        "llm_model": judge.settings.model,
        "llm_explanations_by_status": dict(sorted(status.items())),
        "llm_requests_sent": judge.n_sent,
        **{f"llm_{metric}_{control}": value for metric, control, value in mean.sort("metric", "control").iter_rows()},
    }
