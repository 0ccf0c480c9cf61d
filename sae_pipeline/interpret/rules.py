"""Rules: machine-checkable explanations, predicates that can be run on any token.

A rule names one *key* of a token and the *cells* of that key on which it holds:

    {"key": "token", "cells": [314, 2760]}                       the token is one of these ids
    {"key": "previous", "cells": [260]} / {"key": "next", ...}   the token right before / right after is one of these
    {"key": "bigram", "cells": [[7654, 5821]]}                   previous token and token
    {"key": "token_in", "cells": [["dialogues/spanish", 340]]}   the token, in text of that source (and language)
    {"key": "class_in", "cells": [["python_stdlib", "numbers"]]} tokens of that class, in text of that source
    {"key": "position", "cells": [[1, 1], [2, 3]]}               the position in the block lies in one of these ranges
    {"key": "near", "cells": ["army", "navy"], "before": 16}     one of these words ends within that many tokens before

All but `near` split the tokens into disjoint cells, so that rules of all units are fitted and scored in one vectorised pass.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.tokens import CLASSES, TokenTable

Key = Literal["token", "previous", "next", "bigram", "token_in", "class_in", "position", "near"]
PARTITIONS: tuple[Key, ...] = ("token", "previous", "next", "bigram", "token_in", "class_in", "position")


@dataclass(frozen=True)
class Rule:
    """`cells` in JSON form (see the module docstring); `before` only for `near`."""

    key: Key
    cells: tuple[Any, ...]
    before: int = 0

    def to_json(self) -> str:
        """Canonical JSON."""
        raw: dict[str, Any] = {"key": self.key, "cells": list(self.cells)}
        return json.dumps(raw | ({"before": self.before} if self.key == "near" else {}), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Rule":
        """The rule of a JSON text; `ValueError` for an unknown key."""
        raw = json.loads(text)
        if raw["key"] not in (*PARTITIONS, "near"):
            raise ValueError(f"unknown rule key {raw['key']!r}")
        cells = tuple(tuple(cell) if isinstance(cell, list) else cell for cell in raw["cells"])
        return cls(raw["key"], cells, raw.get("before", 0))


class Cells:
    """The cells of one key over a corpus. `cell_N`: dense cell index of every token; `code_C`: sorted codes of the cells."""

    def __init__(self, tokens: TokenTable, key: Key) -> None:
        self.tokens, self.key = tokens, key
        self.code_C, inverse = np.unique(_codes(tokens, key), return_inverse=True)
        self.cell_N = inverse.astype(np.int32)

    @property
    def n_cells(self) -> int:
        """Distinct cells that occur."""
        return len(self.code_C)

    def describe(self, cell: int) -> Any:
        """JSON form of a cell."""
        code, key, tokens = int(self.code_C[cell]), self.key, self.tokens
        if key in ("token", "previous", "next"):
            return code
        if key == "position":
            return (2**code // 2, 2**code - 1)
        if key == "bigram":
            return divmod(code, tokens.n_vocabulary + 1)
        group, inner = divmod(code, tokens.n_vocabulary if key == "token_in" else len(CLASSES))
        return (tokens.group_names[group], inner if key == "token_in" else CLASSES[inner])

    def find(self, cells: Sequence[Any]) -> np.ndarray:
        """Indices of the cells given in JSON form; cells that do not occur in this corpus are left out."""
        wanted = np.array([self._code(cell) for cell in cells], dtype=np.int64)
        at = np.minimum(np.searchsorted(self.code_C, wanted), self.n_cells - 1)
        return at[self.code_C[at] == wanted]

    def _code(self, cell: Any) -> int:
        key, tokens = self.key, self.tokens
        if key in ("token", "previous", "next"):
            return cell
        if key == "position":
            return int(cell[1]).bit_length()
        if key == "bigram":
            return cell[0] * (tokens.n_vocabulary + 1) + cell[1]
        group = self._group_index.get(cell[0], -1)
        if group < 0:
            return -1
        if key == "token_in":
            return group * tokens.n_vocabulary + cell[1]
        return group * len(CLASSES) + CLASSES.index(cell[1])

    @cached_property
    def _group_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.tokens.group_names)}


def _codes(tokens: TokenTable, key: Key) -> np.ndarray:
    if key == "token":
        return tokens.token_id_N.astype(np.int64)
    if key == "previous":
        return tokens.previous_N.astype(np.int64)
    if key == "next":
        return tokens.next_N.astype(np.int64)
    if key == "bigram":
        return tokens.previous_N.astype(np.int64) * (tokens.n_vocabulary + 1) + tokens.token_id_N
    if key == "token_in":
        return tokens.group_N.astype(np.int64) * tokens.n_vocabulary + tokens.token_id_N
    if key == "class_in":
        return tokens.group_N.astype(np.int64) * len(CLASSES) + tokens.class_V[tokens.token_id_N]
    if key == "position":  # ranges that double: 0, 1, 2-3, 4-7, ...
        return np.ceil(np.log2(tokens.position_N + 1.0)).astype(np.int64)
    raise ValueError(f"{key!r} does not split tokens into cells")


class RuleIndex:
    """Runs rules over the tokens of a corpus."""

    def __init__(self, tokens: TokenTable) -> None:
        self.tokens = tokens
        self._cells: dict[Key, Cells] = {}

    def only(self, token_index: np.ndarray | None) -> "RuleIndex":
        """The same index in which no other tokens are kept (see `TokenTable.only`)."""
        if token_index is None:
            return self
        twin = RuleIndex(self.tokens.only(token_index))
        twin._cells = self._cells
        if "_ends" in self.__dict__:
            twin.__dict__["_ends"] = self.__dict__["_ends"]
        return twin

    def cells(self, key: Key) -> Cells:
        """The cells of a key, made on first use."""
        if key not in self._cells:
            self._cells[key] = Cells(self.tokens, key)
        return self._cells[key]

    @cached_property
    def _ends(self) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        end = np.flatnonzero(self.tokens.word_end_N >= 0)
        word = self.tokens.word_end_N[end]
        order = np.argsort(word, kind="stable")
        offsets = np.searchsorted(word[order], np.arange(len(self.tokens.words) + 1))
        return end[order], offsets, {text: i for i, text in enumerate(self.tokens.words)}

    def after_word(self, word: str, before: int) -> np.ndarray:
        """Token indices that have `word` end among the `before` tokens before them, in their block (unsorted, may repeat)."""
        end, offsets, index = self._ends
        if word not in index:
            return np.empty(0, dtype=np.int64)
        at = end[offsets[index[word]] : offsets[index[word] + 1]]
        reach = at[:, None] + np.arange(1, before + 1)
        return reach[reach // self.tokens.context == (at // self.tokens.context)[:, None]]

    def holds_N(self, rule: Rule) -> np.ndarray:
        """Whether the rule holds, for every token of the corpus."""
        if rule.key == "near":
            mask = np.zeros(self.tokens.n_tokens, dtype=bool)
            for word in rule.cells:
                mask[self.after_word(word, rule.before)] = True
            return mask
        cells = self.cells(rule.key)
        chosen = np.zeros(cells.n_cells, dtype=bool)
        chosen[cells.find(rule.cells)] = True
        return chosen[cells.cell_N]

    def count(
        self, rules: Sequence[Rule | None], activations: SparseActivations, where_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per unit: tokens on which its rule holds, active ones among them, and their share of the activation (mass).

        `rules[u]` is run against unit u of `activations`, on the tokens of `where_N`; None holds nowhere.
        """
        n_units = activations.n_units
        n_held, n_hit, mass = (np.zeros(n_units) for _ in range(3))
        unit_R = np.repeat(np.arange(n_units), np.diff(activations.offsets))
        total = np.bincount(unit_R, weights=activations.value, minlength=n_units)
        for key in PARTITIONS:
            units = [u for u, rule in enumerate(rules) if rule is not None and rule.key == key]
            if not units:
                continue
            cells = self.cells(key)
            found = [cells.find(rules[u].cells) for u in units]  # pyright: ignore[reportOptionalMemberAccess]
            unit_P = np.repeat(units, [len(each) for each in found]).astype(np.int64)
            cell_P = np.concatenate(found).astype(np.int64)
            base_C = np.bincount(cells.cell_N[where_N], minlength=cells.n_cells)
            np.add.at(n_held, unit_P, base_C[cell_P])
            wanted = np.sort(unit_P * cells.n_cells + cell_P)
            in_key = np.zeros(n_units, dtype=bool)
            in_key[units] = True
            rows = np.flatnonzero(in_key[unit_R])
            code = unit_R[rows] * cells.n_cells + cells.cell_N[activations.token_index[rows]]
            at = np.minimum(np.searchsorted(wanted, code), len(wanted) - 1)
            rows = rows[wanted[at] == code] if len(wanted) else rows[:0]
            n_hit += np.bincount(unit_R[rows], minlength=n_units)
            mass += np.bincount(unit_R[rows], weights=activations.value[rows], minlength=n_units)
        for unit, rule in enumerate(rules):
            if rule is not None and rule.key == "near":
                held = np.unique(np.concatenate([self.after_word(word, rule.before) for word in rule.cells]))
                held = held[where_N[held]]
                token_index, value = activations.of(unit)
                hit = np.isin(token_index, held, assume_unique=True)
                n_held[unit], n_hit[unit], mass[unit] = len(held), hit.sum(), value[hit].sum()
        return n_held, n_hit, np.divide(mass, total, out=np.zeros(n_units), where=total > 0)
