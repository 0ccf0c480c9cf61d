"""Splice a dictionary's reconstruction into the language model and measure what that does to next-token prediction.

Raw space, unmasked positions only: a masked position keeps its activation in every run. The cached activations are the clean
prefix, so only the blocks after the hook ever run.

Shapes: B blocks of a batch, T positions, D width, N tokens of the sample in these blocks, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sae_pipeline import progress
from sae_pipeline.activations.reader import KEEP
from sae_pipeline.sae.metrics import ce_recovered, kl_divergence, next_token_cross_entropy

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.language_model.model import LanguageModel

BLOCKS_PER_BATCH = 8
Reconstruct = Callable[[Tensor], Tensor]  # raw N x D -> raw N x D
LOGIT_ROWS = 128  # float32 logits at a time: 25 MB at a vocabulary of 49,000, which the allocator keeps for the next rows


@dataclass(frozen=True)
class SpliceResult:
    """Means over the sample, nats per token. `tokens`: document and cross-entropies of every one of them."""

    n_tokens: int
    ce_clean: float
    ce_spliced: float
    ce_zero: float
    ce_mean: float
    kl: float
    tokens: pl.DataFrame

    def columns(self) -> dict[str, float | int | None]:
        """Columns of `sae_metrics`."""
        return {
            "n_tokens_spliced": self.n_tokens, "ce_clean": self.ce_clean, "ce_spliced": self.ce_spliced, "ce_zero": self.ce_zero,
            "ce_mean": self.ce_mean, "delta_ce": self.ce_spliced - self.ce_clean, "kl": self.kl,
            "ce_recovered_zero": ce_recovered(self.ce_clean, self.ce_spliced, self.ce_zero),
            "ce_recovered_mean": ce_recovered(self.ce_clean, self.ce_spliced, self.ce_mean),
        }  # fmt: skip


def splice(
    corpus: "CorpusReader",
    activations: "ActivationReader",
    reconstruct: Reconstruct,
    language_model: "LanguageModel",
    label: str,
    every: int = 1,
) -> SpliceResult:
    """Cross-entropy with the reconstruction in place, and KL from the clean model, on the tokens of `splice_baselines.parquet`.

    `every`: only those in every so many of its blocks. `label`: what the progress bar says. The table brings the cross-entropies
    of the clean, zero-ablated and mean-ablated model on the same tokens; clean logits are computed again here, because KL needs
    them whole.
    """
    baselines = pl.read_parquet(activations.folder / "splice_baselines.parquet").sort("token_index")
    block = pl.col("token_index") // activations.context
    baselines = baselines.filter((block.rank("dense").cast(pl.Int64) - 1) % every == 0)
    index_S = torch.from_numpy(baselines["token_index"].to_numpy().copy())
    block_S = torch.div(index_S, activations.context, rounding_mode="floor")
    spliced, kl = [], []
    batches = block_S.unique().split(BLOCKS_PER_BATCH)
    for block_B in progress.track(batches, f"splice/{label}", unit="batches"):
        here_N = index_S[torch.isin(block_S, block_B)]
        row_N = torch.searchsorted(block_B, torch.div(here_N, activations.context, rounding_mode="floor"))
        position_N = here_N % activations.context
        token_ids_BT = torch.from_numpy(corpus.token_ids_BT[block_B.numpy()].astype(np.int64))
        target_N = token_ids_BT[row_N, position_N + 1].to(language_model.device)
        r_BTD = _activations(activations, block_B)
        clean_NV = language_model.logits_from(r_BTD, token_ids_BT)[row_N, position_N]
        r_hat_BTD = _spliced(r_BTD, activations.reason_BT[block_B] == KEEP, reconstruct)
        spliced_NV = language_model.logits_from(r_hat_BTD, token_ids_BT)[row_N, position_N]
        for start in range(0, len(here_N), LOGIT_ROWS):
            rows = slice(start, start + LOGIT_ROWS)
            spliced.append(next_token_cross_entropy(spliced_NV[rows], target_N[rows]).double().cpu())
            kl.append(kl_divergence(clean_NV[rows], spliced_NV[rows]).double().cpu())
    tokens = baselines.select(pl.col("ce_clean", "ce_zero", "ce_mean").cast(pl.Float64)).with_columns(
        ce_spliced=torch.cat(spliced).numpy(), doc_id=corpus.doc_ids_BT.reshape(-1)[index_S.numpy()]
    )
    mean = tokens.drop("doc_id").mean().row(0, named=True)
    return SpliceResult(n_tokens=len(index_S), kl=float(torch.cat(kl).mean()), tokens=tokens, **mean)


def _activations(activations: "ActivationReader", block_B: Tensor) -> Tensor:
    context = activations.context
    index_N = (block_B[:, None] * context + torch.arange(context)).flatten()
    return activations.gather(index_N).reshape(len(block_B), context, -1)


def _spliced(r_BTD: Tensor, unmasked_BT: Tensor, reconstruct: Reconstruct) -> Tensor:
    """`r_BTD` with the reconstruction at unmasked positions."""
    out_BTD = r_BTD.clone()
    out_BTD[unmasked_BT] = reconstruct(r_BTD[unmasked_BT]).to(r_BTD)
    return out_BTD
