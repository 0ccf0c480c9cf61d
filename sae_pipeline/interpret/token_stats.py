"""The offline explainer `token-stats`: a rule and a sentence for every unit, from train examples only, without a model.

For all units at once: the rule that best predicts activity (`rule_fit.py`), what stands right before and after, the source and
language they prefer, whether they sit at the start of a block, the words around their strongest activations, and the tokens
that the logit effects promote. Paper, 'Automated interpretability', explains with a language model; this is what counting gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_pipeline.interpret.protocols import Explanation
from sae_pipeline.interpret.rule_fit import FittedRules, fit_rules, strongest
from sae_pipeline.interpret.rules import Key, Rule, RuleIndex
from sae_pipeline.interpret.sentences import Facts, kind_of, sentence
from sae_pipeline.interpret.units import Units

METHOD = "token-stats"
MIN_EXAMPLES = 10  # train activations below which counting says nothing
MOSTLY = 0.5  # share of activations that makes a neighbour "mostly"
LIFT = 3.0  # and how much more often than for any token
GROUP_SHARE = 0.8
START_POSITIONS = 8
N_PROMOTED = 3


@dataclass(frozen=True)
class TokenStats:
    """Explainer for the units of one kind. `promoted`: most promoted token texts by column (none for controls)."""

    index: RuleIndex
    units: Units
    promoted: dict[int, tuple[str, ...]]
    method: str = METHOD

    def explain(self, unit_ids: Sequence[int]) -> list[Explanation]:
        """Explanations of the units with these ids, in order. Raises `KeyError` for an unknown id."""
        column_of = {int(unit): column for column, unit in enumerate(self.units.ids)}
        columns = np.array([column_of[unit] for unit in unit_ids], dtype=np.int64)
        n_active_U = self.units.train.count_U
        enough = columns[n_active_U[columns] >= MIN_EXAMPLES]
        fitted = fit_rules(self.index, self.units.train, enough)
        facts = self._facts(fitted, enough)
        return [self._explanation(unit, column, facts) for unit, column in zip(unit_ids, columns.tolist(), strict=True)]

    def _explanation(self, unit_id: int, column: int, facts: dict[int, Facts]) -> Explanation:
        n = int(self.units.train.count_U[column])
        if column not in facts:
            return Explanation(self.units.unit, unit_id, METHOD, None, None, None, "too_few_examples", n)
        fact = facts[column]
        kind = kind_of(fact.rule, fact.train_f1, fact.texts)
        return Explanation(self.units.unit, unit_id, METHOD, sentence(fact), kind, fact.rule.to_json(), "ok", n)

    def _facts(self, fitted: FittedRules, columns: np.ndarray) -> dict[int, Facts]:
        tokens, train = self.index.tokens, self.units.train
        _, _, share_U = self.index.count(fitted.rules, train, tokens.train_N)
        previous, following = self._neighbour(columns, "previous"), self._neighbour(columns, "next")
        group, at_start = self._group(columns), self._at_start(columns)
        pieces = self._pieces(columns)
        facts = {}
        for column in columns.tolist():
            rule = fitted.rules[column]
            if rule is None:
                continue  # nothing repeats among its activations: as good as too few examples
            facts[column] = Facts(
                rule=rule,
                rule_share=float(share_U[column]),
                train_f1=float(fitted.f1_U[column]),
                texts={token: self._text(token) for token in _ids(rule)},
                pieces=pieces.get(column, {}),
                previous=previous.get(column),
                following=following.get(column),
                group=group.get(column),
                at_start=column in at_start,
                words=fitted.words[column],
                promotes=self.promoted.get(column, ())[:N_PROMOTED],
            )
        return facts

    def _text(self, token: int) -> str:
        """Text of a token for the sentence; empty where a text begins (special tokens, the edge of a block)."""
        tokens = self.index.tokens
        return "" if token >= tokens.n_vocabulary or tokens.special_V[token] else tokens.token_text[token]

    def _rows(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(column, token index) of every train activation of `columns`."""
        train = self.units.train
        wanted = np.zeros(train.n_units, dtype=bool)
        wanted[columns] = True
        unit_R = np.repeat(np.arange(train.n_units), train.count_U)
        keep = wanted[unit_R]
        return unit_R[keep], train.token_index[keep]

    def _neighbour(self, columns: np.ndarray, key: Key) -> dict[int, str]:
        """The token right before (after) more than half of a unit's activations, if three times as frequent as elsewhere."""
        tokens, result = self.index.tokens, {}
        ids_N = tokens.previous_N if key == "previous" else tokens.next_N
        base_V = np.bincount(ids_N[tokens.train_N], minlength=tokens.n_vocabulary + 1) / max(tokens.train_N.sum(), 1)
        for column in columns.tolist():
            # A token that holds more than half of the values is their median.
            ids = ids_N[self.units.train.of(column)[0]]
            token = int(np.partition(ids, len(ids) // 2)[len(ids) // 2])
            share = float((ids == token).mean())
            if token < tokens.n_vocabulary and share > MOSTLY and share > LIFT * base_V[token] and not tokens.special_V[token]:
                result[column] = tokens.token_text[token]
        return result

    def _group(self, columns: np.ndarray) -> dict[int, str]:
        """The source (and language) with at least 80 % of a unit's activations, where it has no such share of all tokens."""
        tokens = self.index.tokens
        n_groups = len(tokens.group_names)
        base = np.bincount(tokens.group_N[tokens.train_N], minlength=n_groups) / max(tokens.train_N.sum(), 1)
        unit_R, token_R = self._rows(columns)
        shape = (self.units.train.n_units, n_groups)
        count = np.bincount(unit_R * n_groups + tokens.group_N[token_R], minlength=shape[0] * shape[1]).reshape(shape)
        share = count / np.maximum(count.sum(axis=1, keepdims=True), 1)
        top = share.argmax(axis=1)
        return {
            column: tokens.group_names[top[column]]
            for column in columns.tolist()
            if share[column, top[column]] >= GROUP_SHARE and base[top[column]] < GROUP_SHARE / 1.25
        }

    def _at_start(self, columns: np.ndarray) -> set[int]:
        """Units with more than half of their activations on the first tokens of a block."""
        unit_R, token_R = self._rows(columns)
        early = self.index.tokens.position_N[token_R] < START_POSITIONS
        n = np.bincount(unit_R[early], minlength=self.units.train.n_units)
        return set(np.flatnonzero(n > MOSTLY * np.maximum(self.units.train.count_U, 1)).tolist())

    def _pieces(self, columns: np.ndarray) -> dict[int, dict[int, str]]:
        """For tokens that are a piece of one and the same word in most strong activations of a unit: that word."""
        tokens = self.index.tokens
        unit_R, token_R = strongest(self.units.train, columns, 32)
        word_R, id_R = tokens.word_of_N[token_R], tokens.token_id_N[token_R]
        known = word_R >= 0
        n_words = len(tokens.words)
        result: dict[int, dict[int, str]] = {}
        if not n_words:
            return result
        code = (unit_R[known] * (tokens.n_vocabulary + 1) + id_R[known]) * n_words + word_R[known]
        distinct, n = np.unique(code, return_counts=True)
        pair, word = distinct // n_words, distinct % n_words
        _, start, inverse = np.unique(pair, return_index=True, return_inverse=True)
        total = np.add.reduceat(n, start) if len(start) else n
        for code_, word_, n_, total_ in zip(pair.tolist(), word.tolist(), n.tolist(), total[inverse].tolist(), strict=True):
            column, token = divmod(code_, tokens.n_vocabulary + 1)
            text = tokens.words[word_]
            if n_ > MOSTLY * total_ and text != tokens.token_text[token].strip().lower():
                result.setdefault(column, {})[token] = text
        return result


def _ids(rule: Rule) -> list[int]:
    """Every token id that a rule names."""
    if rule.key in ("token", "previous", "next"):
        return list(rule.cells)
    if rule.key == "token_in":
        return [token for _, token in rule.cells]
    return [token for cell in rule.cells for token in cell] if rule.key == "bigram" else []


def promoted_tokens(logits: Sequence[tuple[int, str]]) -> dict[int, tuple[str, ...]]:
    """Most promoted tokens by feature, from (feature, token) rows in rank order; unreadable pieces and repeats left out."""
    result: dict[int, tuple[str, ...]] = {}
    for feature, token in logits:
        seen = result.get(feature, ())
        readable = token.strip() and "\\x" not in token and "�" not in token
        if readable and token.strip().lower() not in {each.strip().lower() for each in seen}:
            result[feature] = (*seen, token)
    return result
