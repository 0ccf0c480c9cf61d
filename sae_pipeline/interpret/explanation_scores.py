"""Scores of explanations on held-out tokens, each beside the same score of a shuffled explanation.

* rule precision, recall and F1: the rule run on every unmasked held-out token;
* detection AUROC: does the rule hold anywhere in a window, for windows with and without activity;
* embedding AUROC: cosine of explanation and window, for the same windows.

Legend: U units (columns), W windows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.protocols import ARM_OF_UNIT, Control, Explanation, Status
from sae_pipeline.interpret.proxy import parts_of
from sae_pipeline.interpret.rules import Rule, RuleIndex
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import Example, active_examples, decoys, derangement, generator, top_token

N_DECOYS = 3  # of each of the two kinds
RULE, MINILM = "rule", "minilm"
MIN_WINDOWS = 3  # of each class, for an AUROC


@dataclass(frozen=True)
class MetricRow:
    """One row of `explanation_scores`, by column of the units. `scorer`: rule, minilm, sae, or the judge model."""

    column: int
    metric: str
    control: Control
    value: float | None
    n: int
    status: Status
    scorer: str
    plumbing: bool = False


def rule_scores(index: RuleIndex, units: Units, explanations: Sequence[Explanation], seed: int) -> Iterator[MetricRow]:
    """Precision, recall and F1 of the rule of every explained unit; for SAE features also shuffled and top-1-token rules."""
    columns = units.explained.tolist()
    own: list[Rule | None] = [None] * units.train.n_units
    for column, explanation in zip(columns, explanations, strict=True):
        own[column] = Rule.from_json(explanation.rule) if explanation.rule else None
    explained = [column for column in columns if own[column] is not None]
    arms: list[tuple[Control, list[Rule | None]]] = [(ARM_OF_UNIT[units.unit], own)]
    if units.unit == "sae_feature" and len(explained) > 1:
        other = derangement(explained, seed)
        arms.append(("shuffled", [own[other[u]] if u in other else None for u in range(len(own))]))
        arms.append(("baseline", [top_token_rule(index, units, u) if own[u] else None for u in range(len(own))]))
    for control, rules in arms:
        n_held, n_hit, _ = index.count(rules, units.held_out, index.tokens.test_N)
        for column in columns:
            yield from _precision_recall(column, control, rules[column], n_held, n_hit, int(units.held_out.count_U[column]))


def top_token_rule(index: RuleIndex, units: Units, column: int) -> Rule:
    """The baseline: the one token with the largest share of train activation mass."""
    return Rule("token", (top_token(index.tokens, units.train, column),))


def _precision_recall(
    column: int, control: Control, rule: Rule | None, n_held: np.ndarray, n_hit: np.ndarray, n_active: int
) -> Iterator[MetricRow]:
    if rule is None:
        for name in ("rule_precision", "rule_recall", "rule_f1"):
            yield MetricRow(column, name, control, None, n_active, "too_few_examples", RULE)
        return
    held, hit = float(n_held[column]), float(n_hit[column])
    # A rule that never holds predicts nothing wrong and nothing right: its precision is taken as 0, not left out.
    yield MetricRow(column, "rule_precision", control, hit / held if held else 0.0, int(held), "ok", RULE)
    if n_active == 0:
        yield MetricRow(column, "rule_recall", control, None, 0, "too_few_examples", RULE)
        yield MetricRow(column, "rule_f1", control, None, int(held), "too_few_examples", RULE)
        return
    yield MetricRow(column, "rule_recall", control, hit / n_active, n_active, "ok", RULE)
    yield MetricRow(column, "rule_f1", control, 2 * hit / (held + n_active), int(held) + n_active, "ok", RULE)


def window_scores(
    index: RuleIndex, embedder: SentenceEmbedder, units: Units, explanations: dict[int, Explanation], seed: int
) -> Iterator[MetricRow]:
    """Detection and embedding AUROC of the given units (column -> explanation); SAE features also with shuffled explanations.

    Explanations without a rule have no detection AUROC here.
    """
    tokens = index.tokens
    explained = [column for column, explanation in explanations.items() if explanation.status == "ok"]
    arms: list[tuple[Control, dict[int, int]]] = [(ARM_OF_UNIT[units.unit], {column: column for column in explained})]
    if units.unit == "sae_feature" and len(explained) > 1:
        arms.append(("shuffled", derangement(explained, seed)))
    examples: dict[int, list[Example]] = {}
    for column in explained:
        examples[column] = detection_examples(tokens, units, column, seed)
    windows = {column: [example.window(tokens.context) for example in mine] for column, mine in examples.items()}
    embedder.windows([parts_of(index, window) for mine in windows.values() for window in mine])  # all at once, then cached
    embedder.texts([explanations[column].about_inputs for column in explained])
    held_before = {
        column: np.concatenate([[0], np.cumsum(index.holds_N(Rule.from_json(rule)))])
        for column in explained
        if (rule := explanations[column].rule) is not None
    }
    for column in explanations:
        for control, other in arms:
            if column not in other:
                why = explanations[column].status if column not in explained else "too_few_examples"
                for metric, scorer in (("detection_auroc", RULE), ("embedding_auroc", MINILM)):
                    yield MetricRow(column, metric, control, None, 0, why, scorer)
                continue
            positive = np.array([example.kind == "active" for example in examples[column]])
            theirs = other[column]
            vectors = embedder.windows([parts_of(index, window) for window in windows[column]])[0]
            cosine = vectors @ embedder.texts([explanations[theirs].about_inputs])[0] if len(vectors) else np.empty(0)
            metrics = [("embedding_auroc", cosine, MINILM)]
            if (before := held_before.get(theirs)) is not None:
                holds = np.array([before[window.last + 1] > before[window.first] for window in windows[column]], dtype=float)
                metrics.insert(0, ("detection_auroc", holds, RULE))
            for metric, score, scorer in metrics:
                enough = min(positive.sum(), (~positive).sum()) >= MIN_WINDOWS
                value, status = (auroc(score, positive), "ok") if enough else (None, "too_few_examples")
                yield MetricRow(column, metric, control, value, len(positive), status, scorer)


def detection_examples(tokens: TokenTable, units: Units, column: int, seed: int) -> list[Example]:
    """Held-out windows with activity (one per interval) and without any: the same for every explainer, so they compare."""
    random = generator(seed, "detection", units, column)
    return active_examples(units, column, 1, random) + decoys(tokens, units, column, N_DECOYS, random, quiet_window=True)


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    difference = score[positive][:, None] - score[~positive][None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())
