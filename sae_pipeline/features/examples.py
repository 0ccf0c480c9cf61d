"""The examples of a chunk of features as an Arrow table: selection, windows, texts.

Shapes: E examples, Z activations of a chunk.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.chunks import Chunk
from sae_pipeline.features.selection import (
    sample_priority,
    strongest_of_distinct_documents,
    uniform_by_interval,
)
from sae_pipeline.features.windows import windows_around
from sae_pipeline.study import Features
from sae_pipeline.tables.columns import N_INTERVALS


@dataclass(frozen=True)
class Tokens:
    """The corpus as flat arrays by token index, and the vocabulary. Blocks are `context` tokens long.

    `texts[text_number[token_id]]` is a token's text. The texts are distinct although several ids may read the same: with a
    text twice in its dictionary, Arrow writes other bytes from run to run.
    """

    token_id: np.ndarray
    document: np.ndarray
    context: int
    texts: pa.Array
    text_number: np.ndarray

    @classmethod
    def of(cls, corpus: CorpusReader) -> "Tokens":
        """From a published corpus."""
        texts, number = np.unique(np.array(corpus.token_text, dtype=object), return_inverse=True)
        return cls(
            corpus.token_ids_BT.reshape(-1), corpus.doc_ids_BT.reshape(-1), corpus.context, pa.array(texts, pa.string()),
            number.astype(np.int32),
        )  # fmt: skip


def example_rows(
    chunk: Chunk, split: str, cell_Z: np.ndarray, first_row_R: np.ndarray | None, tokens: Tokens, settings: Features, size: int
) -> pa.Table:
    """Examples of the chunk in one split (table `feature_examples` without `tokens`), sorted by feature, kind and rank.

    With `first_row_R` (see `chosen`): the strongest of distinct documents, and samples by interval; without: samples alone.
    """
    sparse = chunk.by_split[split]
    row_E, rank_E, is_top_E = chosen(chunk, split, cell_Z, first_row_R, settings)
    unit_E, interval_E = np.divmod(cell_Z[row_E], N_INTERVALS)
    windows = windows_around(sparse, row_E, settings.window, tokens.context)
    window_ids = tokens.token_id[windows.token_index].astype(np.int32)
    token_E = sparse.token_index[row_E]
    return pa.table(
        {
            "size": np.full(len(row_E), size, np.int32),
            "feature": (chunk.first_feature + unit_E).astype(np.int32),
            "kind": np.where(is_top_E, "top", "interval"),
            "split": pa.array([split] * len(row_E), pa.string()),
            "interval": (interval_E + 1).astype(np.int8),
            "rank": rank_E.astype(np.int16),
            "doc_id": tokens.document[token_E].astype(np.int32),
            "token_index": token_E,
            "position": (token_E % tokens.context).astype(np.int16),
            "center": windows.center_E.astype(np.int16),
            "token_ids": windows.lists(window_ids),
            "activations": windows.lists(windows.activation),
            "activation": sparse.value[row_E],
        }
    )


def chosen(
    chunk: Chunk, split: str, cell_Z: np.ndarray, first_row_R: np.ndarray | None, settings: Features
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row in the split's activations, rank from 1, whether it is a top example) of each example of the chunk, in order.

    `cell_Z`: see `cells_by_split`. `first_row_R`: see `document_runs`; None: no top examples.
    """
    sparse = chunk.by_split[split]
    priority_Z = sample_priority(sparse.unit_Z + chunk.first_feature, sparse.token_index, settings.seed)
    sampled, sampled_rank = uniform_by_interval(cell_Z, priority_Z, settings.n_per_interval)
    if first_row_R is None:
        return sampled, sampled_rank, np.zeros(len(sampled), bool)
    top, top_rank = strongest_of_distinct_documents(sparse, first_row_R, cell_Z, settings.n_top)
    n_top_U, n_sampled_U = (np.bincount(sparse.unit_Z[row], minlength=sparse.n_units) for row in (top, sampled))
    # Both are in order by unit; a unit's top examples come first.
    top_place = np.arange(len(top)) + np.repeat(np.cumsum(n_sampled_U) - n_sampled_U, n_top_U)
    sampled_place = np.arange(len(sampled)) + np.repeat(np.cumsum(n_top_U), n_sampled_U)
    row_E, rank_E = np.empty(len(top) + len(sampled), np.int64), np.empty(len(top) + len(sampled), np.int16)
    row_E[top_place], row_E[sampled_place], rank_E[top_place], rank_E[sampled_place] = top, sampled, top_rank, sampled_rank
    is_top_E = np.zeros(len(row_E), bool)
    is_top_E[top_place] = True
    return row_E, rank_E, is_top_E


def with_token_texts(rows: pa.Table, tokens: Tokens) -> pa.Table:
    """Add `tokens`, the texts of `token_ids`; stored as a dictionary, so that a text costs two bytes and not its length."""
    ids = rows["token_ids"].combine_chunks()
    flat = pa.DictionaryArray.from_arrays(pa.array(tokens.text_number[ids.values.to_numpy()]), tokens.texts)
    texts = pa.ListArray.from_arrays(ids.offsets, flat)
    return rows.add_column(rows.schema.get_field_index("token_ids") + 1, "tokens", texts)
