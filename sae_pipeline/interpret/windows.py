"""Held-out windows to score, and train windows to calibrate on: drawn across activation intervals, with decoys.

A window is the highlighted token with up to `REACH` tokens of its block on each side. Everything is drawn by a generator that
depends on seed, unit and purpose only, so that a unit's windows do not change when other units are added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sae_pipeline.features.intervals import interval_of
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.protocols import ScoredWindow
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units
from sae_pipeline.tables.columns import N_INTERVALS

REACH = 10
ExampleKind = Literal["active", "close_look", "same_token_inactive", "random", "nearest_inactive"]


@dataclass(frozen=True)
class Example:
    """A window and what no scorer may see: its kind, and interval and activation where the unit is active there."""

    column: int
    kind: ExampleKind
    token_index: int
    interval: int | None = None
    activation: float | None = None

    def window(self, context: int) -> ScoredWindow:
        """What a scorer gets."""
        block = self.token_index - self.token_index % context
        first, last = max(self.token_index - REACH, block), min(self.token_index + REACH, block + context - 1)
        return ScoredWindow(self.token_index, first, last)


def generator(seed: int, purpose: str, units: Units, column: int) -> np.random.Generator:
    """Seeded by purpose and unit."""
    return np.random.default_rng([seed, *purpose.encode(), 0, *units.unit.encode(), int(units.ids[column])])


def active_examples(
    units: Units, column: int, per_interval: int | Sequence[int], random: np.random.Generator,
    split: Literal["train", "held_out"] = "held_out",
) -> list[Example]:  # fmt: skip
    """Up to `per_interval` active tokens, uniform within each of the 10 activation intervals (M = training maximum).

    A sequence gives a number for each interval.
    """
    activations = units.train if split == "train" else units.held_out
    token_index, value = activations.of(column)
    _, in_train = units.train.of(column)
    interval = interval_of(value, float(in_train.max()) if len(in_train) else 0.0)
    wanted = [per_interval] * N_INTERVALS if isinstance(per_interval, int) else per_interval
    examples = []
    for number in range(1, N_INTERVALS + 1):
        inside = np.flatnonzero(interval == number)
        for row in np.sort(random.choice(inside, min(wanted[number - 1], len(inside)), replace=False)).tolist():
            examples.append(Example(column, "active", int(token_index[row]), number, float(value[row])))
    return examples


def close_look(units: Units, column: int, n: int, besides: Sequence[Example], random: np.random.Generator) -> list[Example]:
    """`n` held-out activations (all of them, if there are fewer), as evenly over the intervals as they allow, less `besides`.

    Of a kind of their own: a feature looked at closely must not weigh more than the others in a mean over all.
    """
    _, value = units.held_out.of(column)
    _, in_train = units.train.of(column)
    interval = interval_of(value, float(in_train.max()) if len(in_train) else 0.0)
    count = np.bincount(interval, minlength=N_INTERVALS + 1)[1:]
    wanted = np.zeros(N_INTERVALS, np.int64)
    while (left := min(n, int(count.sum())) - int(wanted.sum())) > 0:
        room = np.flatnonzero(wanted < count)
        # The fullest intervals fill what the sparse ones leave; the remainder goes to the strongest.
        more = np.full(len(room), left // len(room))
        more[len(room) - left % len(room) :] += 1
        wanted[room] = np.minimum(wanted[room] + more, count[room])
    known = {each.token_index for each in besides}
    drawn = active_examples(units, column, wanted.tolist(), random)
    return [replace(each, kind="close_look") for each in drawn if each.token_index not in known]


def decoys(
    tokens: TokenTable, units: Units, column: int, n_each: int, random: np.random.Generator, quiet_window: bool = False
) -> list[Example]:
    """Held-out tokens where the unit is not active: `n_each` with its most frequent train token, and `n_each` of any kind.

    `quiet_window`: also nothing else in the window is active (for scorers that judge whole windows).
    """
    active, _ = units.held_out.of(column)
    excluded = np.zeros(tokens.n_tokens, dtype=bool)
    excluded[active] = True
    if quiet_window and len(active):
        excluded[np.clip(active[:, None] + np.arange(-REACH, REACH + 1), 0, tokens.n_tokens - 1)] = True
    free = np.flatnonzero(tokens.test_N & ~excluded)
    same = free[tokens.token_id_N[free] == top_token(tokens, units.train, column)]
    kinds: tuple[tuple[ExampleKind, np.ndarray], ...] = (("same_token_inactive", same), ("random", free))
    return [
        Example(column, kind, index)
        for kind, pool in kinds
        for index in np.sort(random.choice(pool, min(n_each, len(pool)), replace=False)).tolist()
    ]


def top_token(tokens: TokenTable, train: SparseActivations, column: int) -> int:
    """Token id with the largest share of a unit's train activation mass; -1 for a unit that is never active in train."""
    token_index, value = train.of(column)
    if not len(token_index):
        return -1
    ids, inverse = np.unique(tokens.token_id_N[token_index], return_inverse=True)
    return int(ids[np.argmax(np.bincount(inverse, weights=value))])


def derangement(columns: Sequence[int], seed: int) -> dict[int, int]:
    """Every column mapped to another one: a random cyclic order. Raises `ValueError` for fewer than two columns."""
    if len(columns) < 2:
        raise ValueError("a shuffled control needs at least two explained units")
    order = np.random.default_rng([seed, 1]).permutation(np.asarray(columns))
    return dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
