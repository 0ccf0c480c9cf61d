"""The one pass over the activations: every feature's activations on every unmasked token, sorted by feature.

The file: row groups of 131,072 activations sorted by feature and token, so that whoever asks for one feature (DuckDB, Arrow)
skips all groups but its own by their statistics. Shapes: N tokens of a batch, D model width, F features, Z activations.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.features.runs import Runs
from sae_pipeline.features.sparse import N_UNITS_KEY, SparseActivations
from sae_pipeline.features.strongest_units import StrongestUnits
from sae_pipeline.progress import bar
from sae_pipeline.tables.columns import SPLITS

BATCH_TOKENS = 4096
ROW_GROUP = 131_072  # small enough that one feature's rows are found without reading the file


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


def encode(
    sae: SparseEncoder, activations: ActivationReader, folder: Path, strongest: StrongestUnits, what: str
) -> tuple[dict[str, Runs], dict[str, int]]:
    """Encode all unmasked tokens once; (sorted runs in `folder`, number of tokens) by split. `strongest` sees every token."""
    n_tokens = {split: len(activations.token_index(split)) for split in SPLITS}
    runs = {}
    with bar(f"{what}: encode", sum(n_tokens.values()), "tokens") as progress:
        for split in SPLITS:
            runs[split] = encode_split(sae, activations, split, folder / split, strongest, progress)
            strongest.close(split)
    return runs, n_tokens


def encode_split(
    sae: SparseEncoder, activations: ActivationReader, split: str, folder: Path, strongest: StrongestUnits, progress: tqdm
) -> Runs:
    """Sorted runs, in `folder`, of one split of all tokens, or of a part of them: then `Runs.merge` and `StrongestUnits.merge`
    make those of the whole."""
    runs = Runs(folder, sae.n_features)
    for token_index_N, r_ND, neurons_NM in activations.stream(split, BATCH_TOKENS, neurons=True):
        with torch.inference_mode():
            codes = sae.encode_sparse(r_ND)
            strongest.add(codes.offsets, codes.feature, codes.value, r_ND, neurons_NM)
        count_N = np.diff(codes.offsets.cpu().numpy())
        runs.add(token_index_N.numpy(), count_N, codes.feature.cpu().numpy(), codes.value.float().cpu().numpy())
        progress.update(len(token_index_N))
    runs.finish()
    return runs


class CacheWriter:
    """Writes the sorted activations of one split, range of features by range of features."""

    def __init__(self, path: Path, n_features: int) -> None:
        fields = [("feature", pa.int32()), ("token_index", pa.int64()), ("value", pa.float32())]
        self._schema = pa.schema(fields, metadata={N_UNITS_KEY: str(n_features)})
        # Sorted numbers as differences, and the bytes of floats apart: a third smaller than zstd over plain columns.
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="zstd", use_dictionary=["feature"],  # pyright: ignore[reportArgumentType]
            column_encoding={"token_index": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()

    def write(self, sparse: SparseActivations, first_feature: int) -> None:
        """The activations of the next features, `first_feature` and those after it."""
        feature_Z = (sparse.unit_Z + first_feature).astype(np.int32)
        self._writer.write_table(pa.table([feature_Z, sparse.token_index, sparse.value], schema=self._schema), ROW_GROUP)
