"""The examples of a chunk of features as an Arrow table: selection, windows, texts.

Shapes: E examples, Z activations of a chunk.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.chunks import Chunk
from sae_pipeline.features.selection import (
    document_runs,
    sample_priority,
    strongest_of_distinct_documents,
    uniform_by_interval,
)
from sae_pipeline.features.sparse import order_by_group
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


def example_rows(chunk: Chunk, split: str, interval_Z: np.ndarray, tokens: Tokens, settings: Features, size: int) -> pa.Table:
    """Examples of the chunk in one split (table `feature_examples` without `tokens`), sorted by feature, kind and rank.

    train: the strongest of distinct documents, and samples by interval. held_out: samples by interval only.
    """
    sparse, unit_Z = chunk.by_split[split], chunk.by_split[split].unit_Z
    row_E, rank_E, is_top_E = chosen(chunk, split, interval_Z, tokens.document, settings)
    windows = windows_around(sparse, row_E, settings.window, tokens.context)
    window_ids = tokens.token_id[windows.token_index].astype(np.int32)
    token_E = sparse.token_index[row_E]
    return pa.table(
        {
            "size": np.full(len(row_E), size, np.int32),
            "feature": (chunk.first_feature + unit_Z[row_E]).astype(np.int32),
            "kind": np.where(is_top_E, "top", "interval"),
            "split": pa.array([split] * len(row_E), pa.string()),
            "interval": interval_Z[row_E].astype(np.int8),
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
    chunk: Chunk, split: str, interval_Z: np.ndarray, document: np.ndarray, settings: Features
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row in the split's activations, rank from 1, whether it is a top example) of each example of the chunk, in order.

    `document`: by token index.
    """
    sparse = chunk.by_split[split]
    unit_Z = sparse.unit_Z
    priority_Z = sample_priority(unit_Z + chunk.first_feature, sparse.token_index, settings.seed)
    row_E, rank_E = uniform_by_interval(unit_Z, interval_Z, priority_Z, settings.n_per_interval)
    is_top_E = np.zeros(len(row_E), bool)
    if split == "train":
        first_row_R = document_runs(sparse, document[sparse.token_index])
        top_row, top_rank = strongest_of_distinct_documents(sparse, first_row_R, settings.n_top)
        row_E, rank_E = np.concatenate([top_row, row_E]), np.concatenate([top_rank, rank_E])
        is_top_E = np.concatenate([np.ones(len(top_row), bool), is_top_E])
    part_E = unit_Z[row_E] * (N_INTERVALS + 1) + np.where(is_top_E, 0, interval_Z[row_E])
    _, order = order_by_group((part_E << 16) | rank_E)
    return row_E[order], rank_E[order], is_top_E[order]


def with_token_texts(rows: pa.Table, tokens: Tokens) -> pa.Table:
    """Add `tokens`, the texts of `token_ids`; stored as a dictionary, so that a text costs two bytes and not its length."""
    ids = rows["token_ids"].combine_chunks()
    flat = pa.DictionaryArray.from_arrays(pa.array(tokens.text_number[ids.values.to_numpy()]), tokens.texts)
    texts = pa.ListArray.from_arrays(ids.offsets, flat)
    return rows.add_column(rows.schema.get_field_index("token_ids") + 1, "tokens", texts)
