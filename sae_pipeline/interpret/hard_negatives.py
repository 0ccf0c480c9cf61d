"""Hard negatives by meaning: held-out windows that read like those where a unit is active, and in which it is silent.

After delphi's hard negatives (nearest by sentence embedding), with a pool of evenly spread held-out windows instead of an index.
"""

import numpy as np

from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.proxy import parts_of
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import REACH, Example

N_POOL = 2_000


class NearestWindows:
    """A pool of held-out windows with their embeddings, made once for all units that share an index."""

    def __init__(self, index: RuleIndex, embedder: SentenceEmbedder) -> None:
        self._index, self._embedder = index, embedder
        held_out = np.flatnonzero(index.tokens.test_N)
        self._token_P = held_out[np.linspace(0, len(held_out) - 1, min(N_POOL, len(held_out))).astype(np.int64)]
        self._vector_PH = self._embed([Example(0, "nearest_inactive", int(token)) for token in self._token_P])

    def nearest(self, units: Units, column: int, active: list[Example], n: int) -> list[Example]:
        """The `n` pool windows nearest to the mean of the active ones, among those without any activity of the unit."""
        if not active:
            return []
        centre_H = self._embed(active).mean(axis=0)
        on, _ = units.held_out.of(column)
        at = np.searchsorted(on, self._token_P - REACH)
        silent_P = (at == len(on)) | (on[np.minimum(at, len(on) - 1)] > self._token_P + REACH)
        cosine_P = np.where(silent_P, self._vector_PH @ centre_H, -np.inf)
        chosen = np.argsort(-cosine_P, kind="stable")[: min(n, int(silent_P.sum()))]
        return [Example(column, "nearest_inactive", int(token)) for token in np.sort(self._token_P[chosen])]

    def _embed(self, examples: list[Example]) -> np.ndarray:
        context = self._index.tokens.context
        return self._embedder.windows([parts_of(self._index, example.window(context)) for example in examples])[0]
