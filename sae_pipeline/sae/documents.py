"""Held-out sums of every document: intervals of metrics are drawn over documents, because the tokens of one are alike.

Shapes: N tokens, D width, O documents (of the whole corpus; those without a held-out token stay at 0).
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sae_pipeline.sae.metrics import Reconstruction

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.sae.autoencoder import SparseAutoencoder

ALL = ""


class DocumentSums:
    """Sums over the held-out tokens of each document, in scaled space. `means`: by source, and of all tokens at `ALL`."""

    def __init__(self, means: dict[str, Tensor], source_O: np.ndarray) -> None:
        self._mean_OD = {source: mean_D.double().cpu() for source, mean_D in means.items()}
        self._source_O = source_O
        names = ("n_tokens", "n_active", "error", "variation", "variation_of_source")
        self._sums = {name: np.zeros(len(source_O)) for name in names}

    def add(self, document_N: np.ndarray, source: str, x_ND: Tensor, x_hat_ND: Tensor, n_active_N: np.ndarray) -> None:
        """Add tokens of one source."""
        x_ND, n_documents = x_ND.double().cpu(), len(self._source_O)
        values = {
            "n_tokens": np.ones(len(document_N)), "n_active": n_active_N,
            "error": (x_ND - x_hat_ND.double().cpu()).square().sum(1).numpy(),
            "variation": (x_ND - self._mean_OD[ALL]).square().sum(1).numpy(),
            "variation_of_source": (x_ND - self._mean_OD[source]).square().sum(1).numpy(),
        }  # fmt: skip
        for name, value_N in values.items():
            self._sums[name] += np.bincount(document_N, weights=value_N, minlength=n_documents)

    def table(self, size: int, cross_entropy: pl.DataFrame) -> pl.DataFrame:
        """Rows of `sae_metrics_by_document`. `cross_entropy`: one row per token of the spliced sample, with its `doc_id`."""
        held_out = np.flatnonzero(self._sums["n_tokens"])
        sums = {name: values[held_out] for name, values in self._sums.items()}
        frame = pl.DataFrame({"size": size, "doc_id": held_out, "source": self._source_O[held_out].astype(str)} | sums)
        spliced = cross_entropy.group_by("doc_id").agg(pl.len().alias("n_tokens_spliced"), pl.exclude("doc_id").sum())
        counts = ("n_tokens", "n_active", "n_tokens_spliced")
        joined = frame.join(spliced.with_columns(pl.col("doc_id").cast(pl.Int64)), on="doc_id", how="left")
        return joined.with_columns(
            pl.col("size", "doc_id").cast(pl.Int32), pl.col(counts).fill_null(0).cast(pl.Int64)
        ).sort("doc_id")  # fmt: skip


def held_out_means(
    corpus: "CorpusReader", activations: "ActivationReader", sae: "SparseAutoencoder", batch_tokens: int
) -> dict[str, Tensor]:
    """Mean scaled activation of the held-out tokens, D: of every source, and of all at `ALL`."""
    source_N = corpus.source_of_doc[corpus.doc_ids_BT.reshape(-1)]
    parts: dict[str, Reconstruction] = {}
    for index_N, r_ND in activations.stream("held_out", batch_tokens):
        x_ND, here_N = sae.scaled(r_ND), source_N[index_N.numpy()]
        for source in np.unique(here_N):
            of_source_ND = x_ND[torch.from_numpy(here_N == source)]
            parts.setdefault(str(source), Reconstruction(sae.d_model)).add(of_source_ND, of_source_ND)
    whole = Reconstruction(sae.d_model)
    for part in parts.values():
        whole.merge(part)
    return {name: part.sum_D / max(1, part.n_tokens) for name, part in (parts | {ALL: whole}).items()}
