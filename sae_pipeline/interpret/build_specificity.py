"""Stage `specificity_scores`: the paper's 0-3 rubric by activation interval, here in its proxy reading, with its controls."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.arms import CONTROLS_FILE, chosen_columns, scored_columns
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.explanation_scores import top_token_rule
from sae_pipeline.interpret.judged_specificity import judged_specificity
from sae_pipeline.interpret.llm_calls import unanswered, write_calls
from sae_pipeline.interpret.llm_explainer import METHOD as LLM
from sae_pipeline.interpret.llm_explainer import METHOD_LOGITS as LLM_LOGITS
from sae_pipeline.interpret.protocols import ARM_OF_UNIT, Explanation, ScoredWindow
from sae_pipeline.interpret.protocols import Score as WindowScore
from sae_pipeline.interpret.proxy import METHOD, ProxyScorer, calibrate
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.sentences import quote
from sae_pipeline.interpret.specificity_rows import Arm, specificity_rows
from sae_pipeline.interpret.specificity_summary import summary
from sae_pipeline.interpret.token_stats import METHOD as TOKEN_STATS
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units, load_units, sae_features
from sae_pipeline.interpret.windows import Example, active_examples, close_look, decoys, derangement, generator
from sae_pipeline.judge.open import AskingJudge
from sae_pipeline.store import Outcome
from sae_pipeline.study import Score as ScoreSettings
from sae_pipeline.tables.schemas import conform, empty

N_DECOYS = 3  # of each of the two kinds
N_CALIBRATION_FEATURES = 60


def build_specificity_scores(
    *, size: int, score: ScoreSettings, corpus: Path, activations: Path, feature_stats: Path, explanations: Path,
    work: Path, embedder: SentenceEmbedder | None = None, judge: AskingJudge | None = None, votes: int = 1,
) -> Outcome:  # fmt: skip
    """Write `specificity_scores`, `judge_calibration`, `llm_calls` (Parquet) and `calibration.json` to `work`.

    The folders are published artefacts. `judge` is asked `votes` times about every window when `score.method` is `rubric`.
    """
    embedder = embedder or SentenceEmbedder()
    tokens = TokenTable.of(CorpusReader.open(corpus), ActivationReader.open(activations))
    index = RuleIndex(tokens)
    known = read_explanations(explanations, TOKEN_STATS)
    all_units = [sae_features(feature_stats), *load_units(explanations / CONTROLS_FILE)]
    arms, windows, first_id = rubric_windows(index, all_units, known, score)
    calibration = calibrate(index, embedder, _train_windows(tokens, arms[0].units, known, score))
    calibration.write(work / "calibration.json")
    pairs = [
        (arm, column, explanation, windows[id(arm.units)][column])
        for arm in arms
        for column, explanation in zip(arm.columns, arm.explanations, strict=True)
    ]
    results = _scores(ProxyScorer(index, embedder, calibration), [pair[2:] for pair in pairs], tokens.context)
    frames = [
        specificity_rows(size, arm, column, examples, scores, first_id[id(arm.units), column], METHOD)
        for (arm, column, _, examples), scores in zip(pairs, results, strict=True)
    ]
    metadata = summary(pl.concat(frames), score.seed)
    if score.method == "rubric":
        assert judge is not None
        judged_by = read_explanations(explanations, LLM) or read_explanations(explanations, LLM_LOGITS) or known
        table, judged = judged_specificity(
            size,
            _arms(index, all_units, judged_by, score),
            windows,
            first_id,
            score,
            tokens,
            judge,
            votes,
            pl.concat(frames),
            work,
        )
        frames.append(table)
        metadata |= judged
    else:
        empty("judge_calibration").write_parquet(work / "judge_calibration.parquet")
    write_calls(judge, "specificity_scores", size, work)
    conform("specificity_scores", pl.concat(frames)).write_parquet(work / "specificity_scores.parquet")
    return Outcome(metadata=metadata, incomplete=unanswered(judge))


def _scores(scorer: ProxyScorer, pairs: Sequence[tuple[Explanation, Sequence[Example]]], context: int) -> list[list[WindowScore]]:
    """The scorer gets explanations and windows only: no kind, interval, activation or arm.

    Close looks (they come last) are embedded after the others: what shares a batch shifts the last digits of a cosine.
    """
    even, close = (
        scorer.score_all(
            [
                (text, [each.window(context) for each in examples if (each.kind == "close_look") == late])
                for text, examples in pairs
            ]
        )
        for late in (False, True)
    )
    return [[*first, *last] for first, last in zip(even, close, strict=True)]


def rubric_windows(
    index: RuleIndex, all_units: Sequence[Units], known: dict[tuple[str, int], Explanation], score: ScoreSettings
) -> tuple[list[Arm], dict[int, dict[int, list[Example]]], dict[tuple[int, int], int]]:
    """The arms, the windows of each arm's units by id(units) and column, and the id of each column's first window."""
    arms = _arms(index, all_units, known, score)
    windows = {id(units): _examples(index.tokens, units, columns, score) for units, columns in _windowed(arms)}
    return arms, windows, _first_ids(windows)


def read_explanations(folder: Path, method: str) -> dict[tuple[str, int], Explanation]:
    """Explanations of an `explanations/<size>/` artefact by (unit, unit id); empty when `method` made none."""
    rows = pl.read_parquet(folder / "explanations.parquet").filter(method=method).drop("size", "feature", "control")
    return {(row["unit"], row["unit_id"]): Explanation(**row) for row in rows.iter_rows(named=True)}


def _arms(
    index: RuleIndex, all_units: Sequence[Units], known: dict[tuple[str, int], Explanation], score: ScoreSettings
) -> list[Arm]:
    features, *controls = all_units
    columns = scored_columns(features, score)
    own = {column: _explanation_of(known, features, column) for column in columns}
    explained = [column for column in columns if own[column].status == "ok"]
    arms = [Arm("none", features, columns, [own[column] for column in columns])]
    random = np.random.default_rng([score.seed, 5])
    some = np.sort(random.permutation(explained)[: score.n_controls]).astype(int).tolist()
    if len(explained) > 1:
        other = derangement(explained, score.seed)
        arms.append(Arm("shuffled", features, some, [own[other[column]] for column in some]))
    baseline = [_top_token_explanation(index, features, column, own[column]) for column in some]
    arms.append(Arm("baseline", features, some, baseline))
    for units in controls:
        columns = units.explained.tolist()
        arms.append(Arm(ARM_OF_UNIT[units.unit], units, columns, [_explanation_of(known, units, column) for column in columns]))
    return arms


def _explanation_of(known: dict[tuple[str, int], Explanation], units: Units, column: int) -> Explanation:
    unit_id = int(units.ids[column])
    # A study may explain some features and score others: those have not been explained, which is a status.
    missing = Explanation(units.unit, unit_id, "token-stats", None, None, None, "not_run", 0)
    return known.get((units.unit, unit_id), missing)


def _top_token_explanation(index: RuleIndex, units: Units, column: int, own: Explanation) -> Explanation:
    rule = top_token_rule(index, units, column)
    return replace(own, text=f"Fires on {quote(index.tokens.token_text[rule.cells[0]])}.", rule=rule.to_json(), kind="token")


def _windowed(arms: Sequence[Arm]) -> list[tuple[Units, list[int]]]:
    """The arms that bring windows of their own: shuffled and baseline explanations are scored on the features' windows."""
    return [(arm.units, arm.columns) for arm in arms if arm.control == ARM_OF_UNIT[arm.units.unit]]


def _examples(tokens: TokenTable, units: Units, columns: Sequence[int], score: ScoreSettings) -> dict[int, list[Example]]:
    result, tokens = {}, tokens.only(units.seen)
    chosen = chosen_columns(units, score) if units.unit == "sae_feature" else []
    for column in columns:
        random = generator(score.seed, "specificity", units, column)
        # Controls are units of their own and many: one window per interval and unit is enough to compare means.
        per_interval = score.examples_per_interval if units.unit == "sae_feature" else 1
        active = active_examples(units, column, per_interval, random)
        result[column] = [*active, *decoys(tokens, units, column, N_DECOYS, random)]
        if column in chosen:
            result[column] += close_look(units, column, score.examples_per_chosen, active, random)
    return result


def _train_windows(
    tokens: TokenTable, features: Units, known: dict[tuple[str, int], Explanation], score: ScoreSettings
) -> list[tuple[Explanation, list[ScoredWindow]]]:
    """For calibration: train windows of a seeded sample of explained features, one per activation interval."""
    explained = [key[1] for key, each in known.items() if key[0] == features.unit and each.status == "ok"]
    n = min(N_CALIBRATION_FEATURES, len(explained))
    chosen = np.sort(np.random.default_rng([score.seed, 4]).choice(explained, n, replace=False)).tolist()
    result = []
    for column in chosen:
        random = generator(score.seed, "calibration", features, column)
        windows = [each.window(tokens.context) for each in active_examples(features, column, 1, random, "train")]
        result.append((known[features.unit, column], windows))
    return result


def _first_ids(windows: dict[int, dict[int, list[Example]]]) -> dict[tuple[int, int], int]:
    result, next_id = {}, 0
    for units, by_column in windows.items():
        for column, examples in by_column.items():
            result[units, column] = next_id
            next_id += len(examples)
    return result
