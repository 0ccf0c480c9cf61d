"""Find the rule that best predicts where a unit is active, on train tokens, for all units at once.

For every key (token, previous token, ...) the train tokens fall into disjoint cells. The set of cells with the best F1 is a
prefix of the cells sorted by precision, so one sort finds it for every unit. Counts are discounted by one activation per cell
(what a held-out occurrence would have seen), so that cells seen active once carry no weight.

Legend: U units, R rows (activations), C cells of a key, P (unit, cell) pairs.
"""

from dataclasses import dataclass

import numpy as np

from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.rules import PARTITIONS, Key, Rule, RuleIndex

# The most cells a rule may list: a rule that a sentence cannot sum up is no explanation.
MAX_CELLS: dict[Key, int] = {
    "token": 24, "previous": 16, "next": 16, "bigram": 32, "token_in": 24, "class_in": 6, "position": 4,
}  # fmt: skip
# What a less simple key must gain in F1 over the token itself to be preferred.
HANDICAP: dict[Key, float] = {
    "token": 0.0, "previous": 0.02, "next": 0.05, "bigram": 0.05, "token_in": 0.03, "class_in": 0.04, "position": 0.05,
    "near": 0.04,
}  # fmt: skip
NEAR_BEFORE = 16  # tokens
NEAR_TOP = 48  # strongest activations from which context words are taken
NEAR_WORDS = 6
NEAR_TRIED_BELOW = 0.5  # a unit whose best other rule reaches this F1 needs no rule of context words
MIN_WORD_OCCURRENCES = 5
MIN_WORD_SHARE = 0.1  # of the strongest activations


@dataclass(frozen=True)
class Fit:
    """The best cells of one key: pairs sorted by unit, then by activations on the cell; `f1_U` discounted, 0 where none."""

    f1_U: np.ndarray
    unit_P: np.ndarray
    cell_P: np.ndarray

    def of(self, unit: int) -> np.ndarray:
        """The unit's cells, the one with most activations first."""
        first, last = np.searchsorted(self.unit_P, [unit, unit + 1])
        return self.cell_P[first:last]


@dataclass(frozen=True)
class FittedRules:
    """One rule (or None) per unit, its discounted train F1, and the context words found for the unit (may be empty)."""

    rules: list[Rule | None]
    f1_U: np.ndarray
    words: list[tuple[str, ...]]


def fit_rules(index: RuleIndex, train: SparseActivations, units: np.ndarray) -> FittedRules:
    """The best rule of each of `units` (ids of columns of `train`); the others get None."""
    tokens = index.tokens
    wanted_U = np.zeros(train.n_units, dtype=bool)
    wanted_U[units] = True
    unit_R = np.repeat(np.arange(train.n_units), train.count_U)
    rows = np.flatnonzero(wanted_U[unit_R])
    unit_R, token_R = unit_R[rows], train.token_index[rows]
    # `worth_U`: F1 less the key's handicap, what keys are compared by.
    best_U, f1_U, worth_U = np.full(train.n_units, -1), np.zeros(train.n_units), np.full(train.n_units, -np.inf)
    fits: list[Fit] = []
    for i, key in enumerate(PARTITIONS):
        cells = index.cells(key)
        base_C = np.bincount(cells.cell_N[tokens.train_N], minlength=cells.n_cells)
        fit = best_cells(unit_R, cells.cell_N[token_R], base_C, train.count_U, MAX_CELLS[key])
        fits.append(fit)
        better = (fit.f1_U > 0) & (fit.f1_U - HANDICAP[key] > worth_U)
        best_U[better], f1_U[better], worth_U[better] = i, fit.f1_U[better], fit.f1_U[better] - HANDICAP[key]
    rules: list[Rule | None] = [None] * train.n_units
    for unit in np.flatnonzero(best_U >= 0):
        key, fit = PARTITIONS[best_U[unit]], fits[best_U[unit]]
        rules[unit] = Rule(key, tuple(index.cells(key).describe(cell) for cell in fit.of(unit)))
    words = context_words(index, train, units)
    for unit in units[f1_U[units] < NEAR_TRIED_BELOW]:
        near = _near_rule(index, train, unit, words[unit])
        if near is not None and near[1] - HANDICAP["near"] > worth_U[unit]:
            rules[unit], f1_U[unit] = near
    return FittedRules(rules, f1_U, words)


def best_cells(
    unit_R: np.ndarray, cell_R: np.ndarray, base_C: np.ndarray, n_active_U: np.ndarray, max_cells: int, min_active: int = 2
) -> Fit:
    """For every unit the set of at most `max_cells` cells with the best discounted F1.

    `unit_R`, `cell_R`: one row per activation; `base_C`: tokens per cell; `n_active_U`: activations per unit.
    """
    n_units, n_cells = len(n_active_U), len(base_C)
    unit_P, cell_P, n_P = _count_pairs(unit_R, cell_R, n_cells)
    keep = n_P >= min_active
    unit_P, cell_P, n_P = unit_P[keep], cell_P[keep], n_P[keep] - 1.0
    order = _sort_within(unit_P, -n_P / base_C[cell_P])
    unit_P, cell_P, n_P = unit_P[order], cell_P[order], n_P[order]
    hit_P, held_P = _running(unit_P, n_P), _running(unit_P, base_C[cell_P].astype(np.float64))
    f1_P = 2 * hit_P / (held_P + n_active_U[unit_P])
    best_U = np.zeros(n_units)
    np.maximum.at(best_U, unit_P, f1_P)
    # Everything up to the best prefix: a running flag from the right within the unit.
    is_best = f1_P >= best_U[unit_P]
    last_U = np.full(n_units, -1)
    np.maximum.at(last_U, unit_P[is_best], np.flatnonzero(is_best))
    keep = np.arange(len(unit_P)) <= last_U[unit_P]
    unit_P, cell_P, n_P = unit_P[keep], cell_P[keep], n_P[keep]
    # The cells that carry most activations, as many as a rule may list.
    order = _sort_within(unit_P, -n_P)
    unit_P, cell_P, n_P = unit_P[order], cell_P[order], n_P[order]
    keep = _running(unit_P, np.ones(len(unit_P))) <= max_cells
    unit_P, cell_P, n_P = unit_P[keep], cell_P[keep], n_P[keep]
    hit_U = np.bincount(unit_P, weights=n_P, minlength=n_units)
    held_U = np.bincount(unit_P, weights=base_C[cell_P], minlength=n_units)
    return Fit(2 * hit_U / np.maximum(held_U + n_active_U, 1), unit_P, cell_P)


def context_words(index: RuleIndex, train: SparseActivations, units: np.ndarray) -> list[tuple[str, ...]]:
    """Up to `NEAR_WORDS` words that stand in the 16 tokens before a unit's strongest activations more often than elsewhere.

    Ranked by the log-odds of occurring there against the base rate, times the share of activations that have the word.
    """
    tokens, result = index.tokens, [()] * train.n_units
    if not tokens.words:
        return result
    unit_R, token_R = strongest(train, units, NEAR_TOP)
    reach = token_R[:, None] - np.arange(1, NEAR_BEFORE + 1)
    inside = (reach >= 0) & (reach // tokens.context == (token_R // tokens.context)[:, None])
    word = np.where(inside, tokens.word_end_N[np.maximum(reach, 0)], -1)
    row, column = np.nonzero(word >= 0)
    n_words = len(tokens.words)
    once = _distinct(row * n_words + word[row, column])  # a word counts once per activation
    unit_P, word_P, n_P = _count_pairs(unit_R[once // n_words], once % n_words, n_words)
    ends = tokens.word_end_N[tokens.train_N]
    occurrences = np.bincount(ends[ends >= 0], minlength=n_words)
    base = 1 - (1 - occurrences / max(len(ends), 1)) ** NEAR_BEFORE
    n_U = np.bincount(unit_R, minlength=train.n_units)
    share = n_P / (n_U[unit_P] + 2)
    odds = np.log(share / (1 - share)) - np.log((base[word_P] + 1e-6) / (1 - base[word_P] + 1e-6))
    keep = (n_P >= 3) & (share >= MIN_WORD_SHARE) & (odds > np.log(4)) & (occurrences[word_P] >= MIN_WORD_OCCURRENCES)
    unit_P, word_P, gain = unit_P[keep], word_P[keep], (odds * share)[keep]
    order = _sort_within(unit_P, -gain)
    unit_P, word_P = unit_P[order], word_P[order]
    keep = _running(unit_P, np.ones(len(unit_P))) <= NEAR_WORDS
    for unit, word in zip(unit_P[keep].tolist(), word_P[keep].tolist(), strict=True):
        result[unit] = (*result[unit], tokens.words[word])
    return result


def strongest(activations: SparseActivations, units: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(unit, token index) of the `n` strongest activations of each unit, strongest first; equal ones in token order."""
    unit_K, token_K = [], []
    for unit in units.tolist():
        token_index, value = activations.of(unit)
        if len(value) > 4 * n:  # cheap cut before the exact sort; ties at the cut stay in
            cut = value >= np.partition(value, len(value) - n)[len(value) - n]
            token_index, value = token_index[cut], value[cut]
        token_index = token_index[np.argsort(-value, kind="stable")[:n]]
        unit_K.append(np.full(len(token_index), unit))
        token_K.append(token_index)
    empty = np.empty(0, dtype=np.int64)
    return np.concatenate([empty, *unit_K]), np.concatenate([empty, *token_K])


def _near_rule(index: RuleIndex, train: SparseActivations, unit: int, words: tuple[str, ...]) -> tuple[Rule, float] | None:
    """The prefix of `words` whose rule has the best train F1, with that F1."""
    if not words:
        return None
    reached = [index.after_word(word, NEAR_BEFORE) for word in words]
    token = np.concatenate(reached)
    rank = np.repeat(np.arange(len(words)), [len(each) for each in reached])
    token, first = np.unique(token, return_index=True)  # first = lowest rank: ranks ascend in `token`
    rank = rank[first]
    in_train = index.tokens.train_N[token]
    token, rank = token[in_train], rank[in_train]
    active, _ = train.of(unit)
    hit = np.isin(token, active, assume_unique=True)
    n_held = np.cumsum(np.bincount(rank, minlength=len(words)))
    n_hit = np.cumsum(np.bincount(rank[hit], minlength=len(words)))
    f1 = 2 * n_hit / (n_held + len(active))
    best = int(np.argmax(f1))
    return (Rule("near", words[: best + 1], NEAR_BEFORE), float(f1[best])) if f1[best] > 0 else None


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sorted distinct values; on many integers a sort is several times faster than the hashing of `np.unique`."""
    values = np.sort(values)
    return values[np.flatnonzero(np.diff(values, prepend=values[:1] - 1))]


def _count_pairs(unit_R: np.ndarray, cell_R: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct (unit, cell) pairs in order, with their number of rows."""
    code, count = np.unique(unit_R.astype(np.int64) * n_cells + cell_R, return_counts=True)
    return code // n_cells, code % n_cells, count


def _sort_within(unit_P: np.ndarray, value_P: np.ndarray) -> np.ndarray:
    """Order by unit, then value; equal values stay in order."""
    order = np.argsort(value_P, kind="stable")
    return order[np.argsort(unit_P[order], kind="stable")]


def _running(unit_P: np.ndarray, value_P: np.ndarray) -> np.ndarray:
    """Running sum of values within each unit; `unit_P` ascending."""
    total = np.cumsum(value_P)
    first = np.flatnonzero(np.diff(unit_P, prepend=-1))
    before = np.concatenate([[0.0], total])[first]
    return total - np.repeat(before, np.diff(np.append(first, len(unit_P))))
