"""Contrastive and sort evals (Anthropic, August 2024): token counts of training text take the judge's place (row 25).

Contrastive: a pair of texts that differ in a concept; for every unit that is active on exactly one, which one is it? Sort: two
units and a held-out token on which one of them is active; which? The answers come from how often each token made the unit active
in the training sample. Chance is one half; random directions of the same densities go through the same procedure.

Shapes: N tokens, F units, V token ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sae_pipeline.progress import track
from sae_pipeline.survey.search.banks import TOKENS_AT_ONCE, Bank
from sae_pipeline.survey.search.reading import Read

PRIOR = 1.0  # tokens that a unit is thought to have been seen on besides


@dataclass(frozen=True)
class Profile:
    """Where the units of a bank were active in a token sample: sorted (unit, token id) keys with counts."""

    key_P: np.ndarray
    count_P: np.ndarray
    n_active_F: np.ndarray
    n_token_V: np.ndarray

    @classmethod
    def of(cls, unit_P: np.ndarray, token_P: np.ndarray, sample_ids_N: np.ndarray, n_units: int, n_ids: int) -> "Profile":
        """From active (unit, token id) pairs and the ids of the whole sample."""
        keys, counts = np.unique(unit_P.astype(np.int64) * n_ids + token_P, return_counts=True)
        return cls(keys, counts, np.bincount(unit_P, minlength=n_units), np.bincount(sample_ids_N, minlength=n_ids))

    def count(self, unit: np.ndarray, token: np.ndarray) -> np.ndarray:
        """How often `unit` was active on token id `token`."""
        wanted = unit.astype(np.int64) * len(self.n_token_V) + token
        place = np.minimum(np.searchsorted(self.key_P, wanted), max(len(self.key_P) - 1, 0))
        return np.where(self.key_P[place] == wanted, self.count_P[place], 0) if len(self.key_P) else np.zeros(len(wanted), int)

    def p_active(self, unit: np.ndarray, token: np.ndarray) -> np.ndarray:
        """P(unit active | token id), drawn towards the unit's density."""
        density = self.n_active_F[unit] / max(int(self.n_token_V.sum()), 1)
        return (self.count(unit, token) + PRIOR * density) / (self.n_token_V[token] + PRIOR)

    def p_token(self, unit: np.ndarray, token: np.ndarray) -> np.ndarray:
        """P(token id | unit active), drawn towards the token's frequency."""
        frequency = (self.n_token_V[token] + 1) / (self.n_token_V.sum() + len(self.n_token_V))
        return (self.count(unit, token) + PRIOR * frequency) / (self.n_active_F[unit] + PRIOR)


def active_pairs(bank: Bank, r_ND: Tensor, what: str) -> tuple[np.ndarray, np.ndarray]:
    """(unit, row) of every activation of a token sample."""
    units, rows = [], []
    for start in track(range(0, len(r_ND), TOKENS_AT_ONCE), what, unit="batches"):
        row, unit = np.nonzero(bank.activations(r_ND[start : start + TOKENS_AT_ONCE]).numpy())
        units.append(unit)
        rows.append(row + start)
    return np.concatenate(units), np.concatenate(rows)


def contrastive(bank: Bank, profile: Profile, pairs: Sequence[tuple[Read, Read]]) -> np.ndarray:
    """Share of right answers over the units that are active on exactly one text, for each pair; NaN where there is none."""
    accuracy = []
    for first, second in pairs:
        active = [(bank.activations(read.r_TD) > 0).any(0).numpy() for read in (first, second)]
        units = np.flatnonzero(active[0] ^ active[1])
        if not len(units):
            accuracy.append(np.nan)
            continue
        score = [_largest(profile, units, np.unique(read.token_ids)) for read in (first, second)]
        says_first = np.where(score[0] == score[1], 0.5, score[0] > score[1])
        accuracy.append(float(np.where(active[0][units], says_first, 1 - says_first).mean()))
    return np.array(accuracy)


def _largest(profile: Profile, units: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    grid_unit, grid_token = np.repeat(units, len(token_ids)), np.tile(token_ids, len(units))
    return profile.p_active(grid_unit, grid_token).reshape(len(units), -1).max(1)


def sort(profile: Profile, unit_P: np.ndarray, token_P: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Right answers (1, 0, ties a half) of `n` drawn pairs of units. `unit_P`, `token_P`: held-out activations to draw from."""
    seen = profile.n_active_F[unit_P] > 0
    unit_P, token_P = unit_P[seen], token_P[seen]
    units = np.unique(unit_P)
    if len(units) < 2:
        return np.zeros(0)
    random = np.random.default_rng(seed)
    right = []
    order = np.argsort(unit_P, kind="stable")
    start = np.searchsorted(unit_P[order], units)
    stop = np.append(start[1:], len(order))
    for _ in range(n):
        mine, other = random.choice(len(units), 2, replace=False)
        token = token_P[order[random.integers(start[mine], stop[mine])]]
        p = profile.p_token(units[[mine, other]], np.array([token, token]))
        right.append(0.5 if p[0] == p[1] else float(p[0] > p[1]))
    return np.array(right)
