"""Pack documents into blocks of equal length, and measure how far the splits overlap. Shapes: B blocks, T positions."""

import numpy as np

GRAM = 13  # tokens; the usual measure of train/test overlap


def pack(
    documents: list[tuple[int, list[int]]], context: int, bos_id: int | None, eos_id: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(token_ids_BT, doc_ids_BT, tokens dropped with the last incomplete block), int32.

    `documents` are (doc_id, token ids) in their final order. Every document ends with EOS, which belongs to it; every block
    starts with BOS when there is a `bos_id`, and BOS belongs to no document (-1).
    """
    ids = np.concatenate([np.array([*token_ids, eos_id], dtype=np.int32) for _, token_ids in documents])
    docs = np.concatenate([np.full(len(token_ids) + 1, doc_id, dtype=np.int32) for doc_id, token_ids in documents])
    room = context - (bos_id is not None)
    n_blocks = len(ids) // room
    n_dropped = len(ids) - n_blocks * room
    ids_BT, docs_BT = (array[: n_blocks * room].reshape(n_blocks, room) for array in (ids, docs))
    if bos_id is not None:
        ids_BT = np.pad(ids_BT, ((0, 0), (1, 0)), constant_values=bos_id)
        docs_BT = np.pad(docs_BT, ((0, 0), (1, 0)), constant_values=-1)
    return ids_BT, docs_BT, n_dropped


def grams(token_ids_BT: np.ndarray, doc_ids_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(64-bit hash, doc_id) of every run of 13 tokens that lies within one document and one block."""
    if token_ids_BT.shape[1] < GRAM:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int32)
    width = token_ids_BT.shape[1] - GRAM + 1
    hash_BW = np.zeros((token_ids_BT.shape[0], width), dtype=np.uint64)
    for offset in range(GRAM):  # a polynomial in an odd 64-bit number, modulo 2^64
        hash_BW = (
            hash_BW * np.uint64(0x9E3779B97F4A7C15) + token_ids_BT[:, offset : offset + width].astype(np.uint64) + np.uint64(1)
        )
    first, last = doc_ids_BT[:, :width], doc_ids_BT[:, GRAM - 1 :]
    inside = (first == last) & (first >= 0)
    return hash_BW[inside], first[inside]
