"""How well a stream of batches is mixed: tokens of one context in one batch are near-copies of each other.

Shapes: N tokens of a batch.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass
class Mixing:
    """Sums over the batches that one SAE was trained on and that were measured: integers, so a resumed run publishes what an
    uninterrupted one does."""

    n_batches: int = 0
    n_documents: int = 0
    n_pairs: int = 0

    def add(self, other: "Mixing") -> None:
        """Another batch, or more of them."""
        self.n_batches += other.n_batches
        self.n_documents += other.n_documents
        self.n_pairs += other.n_pairs

    def state(self) -> dict[str, int]:
        """For a checkpoint: `Mixing(**state)`."""
        return asdict(self)

    def means(self) -> dict[str, float]:
        """`distinct_documents_per_batch`, and `same_context_pairs_per_batch`: pairs of tokens out of one block."""
        if not self.n_batches:
            return {}
        return {
            "distinct_documents_per_batch": self.n_documents / self.n_batches,
            "same_context_pairs_per_batch": self.n_pairs / self.n_batches,
        }


class MixingMeter:
    """Measures single batches. `document_of_token`: by token index."""

    def __init__(self, context: int, document_of_token: Tensor) -> None:
        self._context, self._document = context, document_of_token

    def of(self, token_index_N: Tensor) -> Mixing:
        """One batch."""
        _, count = torch.div(token_index_N, self._context, rounding_mode="floor").unique(return_counts=True)
        return Mixing(1, len(self._document[token_index_N].unique()), int((count * (count - 1) // 2).sum()))
