"""How well a stream of batches is mixed: tokens of one context in one batch are near-copies of each other.

Shapes: N tokens of a batch.
"""

import torch
from torch import Tensor


class Mixing:
    """Means over the batches added."""

    def __init__(self, context: int, document_of_token: Tensor) -> None:
        self._context, self._document = context, document_of_token
        self._n_batches = self._documents = self._pairs = 0

    def add(self, token_index_N: Tensor) -> None:
        """One batch."""
        _, count = torch.div(token_index_N, self._context, rounding_mode="floor").unique(return_counts=True)
        self._pairs += int((count * (count - 1) // 2).sum())
        self._documents += len(self._document[token_index_N].unique())
        self._n_batches += 1

    def means(self) -> dict[str, float]:
        """`distinct_documents_per_batch`, and `same_context_pairs_per_batch`: pairs of tokens out of one block."""
        if not self._n_batches:
            return {}
        return {
            "distinct_documents_per_batch": self._documents / self._n_batches,
            "same_context_pairs_per_batch": self._pairs / self._n_batches,
        }
