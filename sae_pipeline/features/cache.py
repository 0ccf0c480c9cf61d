"""The one pass over the activations: every feature's activations on every unmasked token, sorted by feature.

Encoding yields activations in token order; they are appended to one Parquet file per split and then sorted by DuckDB out of
core, so that memory stays bounded whatever the number of tokens and features.

Shapes: N tokens of a batch, D model width, F features.
"""

from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.features.sparse import N_UNITS_KEY
from sae_pipeline.progress import bar
from sae_pipeline.tables.columns import SPLITS

BATCH_TOKENS = 4096
APPEND_ROWS = 1 << 20  # activations held before they are appended: 16 MB
SORT_MEMORY = "2GB"  # beyond it DuckDB spills to the work folder
ROW_GROUP = 131_072  # small enough that one feature's rows are found without reading the file
_SCHEMA = pa.schema([("feature", pa.int32()), ("token_index", pa.int64()), ("value", pa.float32())])


class SparseEncoder(Protocol):
    """What the pass needs of an SAE."""

    @property
    def n_features(self) -> int: ...

    def encode_sparse(self, r_ND: Tensor) -> Any:
        """Raw activations -> codes with `offsets` int64 (N+1), `feature` and `value` of the active features."""
        ...


def cache_file(folder: Path, split: str) -> Path:
    """The sorted activations of one split."""
    return folder / f"activations_{split}.parquet"


def write_activation_cache(sae: SparseEncoder, activations: ActivationReader, work: Path, what: str) -> dict[str, int]:
    """Encode all unmasked tokens once and write `activations_<split>.parquet`; returns the number of tokens by split."""
    n_tokens = {split: len(activations.token_index(split)) for split in SPLITS}
    unsorted = work / "unsorted"
    unsorted.mkdir(exist_ok=True)
    with bar(f"{what}: encode", sum(n_tokens.values()), "tokens") as progress:
        for split in SPLITS:
            with pq.ParquetWriter(unsorted / f"{split}.parquet", _SCHEMA, compression="none", use_dictionary=False) as writer:
                for rows in _encoded(sae, activations, split, progress):
                    writer.write_table(rows)
    for split in SPLITS:
        _sort(unsorted / f"{split}.parquet", cache_file(work, split), sae.n_features, spill=unsorted)
        (unsorted / f"{split}.parquet").unlink()
    return n_tokens


def _encoded(sae: SparseEncoder, activations: ActivationReader, split: str, progress: Any):
    """Tables of about APPEND_ROWS activations, in token order."""
    pending: list[pa.Table] = []
    for token_index_N, r_ND in activations.stream(split, BATCH_TOKENS):
        with torch.inference_mode():
            codes = sae.encode_sparse(r_ND)
        feature, value = codes.feature.cpu().numpy(), codes.value.float().cpu().numpy()
        token = np.repeat(token_index_N.numpy(), np.diff(codes.offsets.cpu().numpy()))
        pending.append(pa.table([feature.astype(np.int32), token, value], schema=_SCHEMA))
        progress.update(len(token_index_N))
        if sum(map(len, pending)) >= APPEND_ROWS:
            yield pa.concat_tables(pending).combine_chunks()
            pending = []
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def _sort(source: Path, target: Path, n_units: int, spill: Path) -> None:
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": SORT_MEMORY,
        "temp_directory": str(spill),
        "autoinstall_known_extensions": False,
    }
    with duckdb.connect(config=config) as connection:
        connection.execute(
            f"""COPY (SELECT feature, token_index, value FROM read_parquet($source) ORDER BY feature, token_index)
            TO '{_quoted(target)}' (FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2, ROW_GROUP_SIZE {ROW_GROUP},
            KV_METADATA {{{N_UNITS_KEY.decode()}: '{n_units}'}})""",
            {"source": str(source)},
        ).fetchall()


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
