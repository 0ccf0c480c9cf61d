"""How large the shards of a harvest are. Needs no model: the plan asks before anything is loaded."""

BYTES_OF = {"bfloat16": 2, "float32": 4}
BYTES_BESIDE = 15  # norm, token id, document id (4 each), position (2), mask reason (1)


def expected_shard_bytes(n_tokens: int, d_model: int, dtype: str, n_neurons: int) -> int:
    """Bytes of the shards and the mask: per token one activation and the stored neurons in `dtype`, and what lies beside them."""
    return n_tokens * (BYTES_OF[dtype] * (d_model + n_neurons) + BYTES_BESIDE)
