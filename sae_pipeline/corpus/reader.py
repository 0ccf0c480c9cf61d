"""Read a published corpus artefact. Shapes: B blocks, T positions (the context length)."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl


@dataclass(frozen=True)
class CorpusReader:
    """Token blocks and documents of a corpus. A token is named by its index: block * context + position."""

    folder: Path
    token_ids_BT: np.ndarray  # int32
    doc_ids_BT: np.ndarray  # int32, -1 at BOS
    held_out_B: np.ndarray  # bool

    @classmethod
    def open(cls, folder: Path | str) -> "CorpusReader":
        """Open the `corpus/` artefact at `folder`."""
        folder = Path(folder)
        blocks = pl.read_parquet(folder / "blocks.parquet").sort("block")
        return cls(
            folder=folder,
            token_ids_BT=blocks["token_ids"].to_numpy(writable=True),
            doc_ids_BT=blocks["doc_ids"].to_numpy(writable=True),
            held_out_B=(blocks["split"] == "held_out").to_numpy(writable=True),
        )

    @property
    def n_blocks(self) -> int:
        """Number of blocks, train and held out."""
        return self.token_ids_BT.shape[0]

    @property
    def context(self) -> int:
        """Tokens per block."""
        return self.token_ids_BT.shape[1]

    @cached_property
    def documents(self) -> pl.DataFrame:
        """One row per document, row number = doc_id."""
        return pl.read_parquet(self.folder / "documents.parquet").sort("doc_id")

    @cached_property
    def vocabulary(self) -> pl.DataFrame:
        """One row per token id, row number = token_id."""
        return pl.read_parquet(self.folder / "vocabulary.parquet").sort("token_id")

    @cached_property
    def token_text(self) -> list[str]:
        """What each token id reads alone; incomplete UTF-8 as `\\xe2`."""
        return self.vocabulary["text"].to_list()

    @cached_property
    def source_of_doc(self) -> np.ndarray:
        """Source name by doc_id."""
        return self.documents["source"].to_numpy()

    @cached_property
    def language_of_doc(self) -> np.ndarray:
        """Language by doc_id."""
        return self.documents["language"].to_numpy()
