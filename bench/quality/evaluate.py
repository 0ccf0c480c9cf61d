"""One measure for all: L0 and explained variance on held-out tokens, cross-entropy recovered in the real model.

Every SAE is read from its library's files by our readers and brought into the published form, as an import would be.

Shapes: N tokens, B blocks, T positions, D width.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from bench.quality.runs import N_HELD_OUT, N_SPLICE_BLOCKS, OURS, SAELENS, Run
from sae_pipeline.activations.reader import KEEP, ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.formats.published import to_published
from sae_pipeline.formats.registry import read_sae
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.metrics import Activity, Reconstruction, ce_recovered, next_token_cross_entropy
from sae_pipeline.study import Study

BLOCKS_AT_ONCE = 8


def read(run: Run, folder: Path, activations: ActivationReader) -> SparseAutoencoder:
    """The SAE of a run, for raw activations: it was trained on scaled ones."""
    place = folder / run.key
    if run.contender == OURS:
        sae = SparseAutoencoder.load(place)
    else:
        raw = read_sae("saelens" if run.contender == SAELENS else "dictionary_learning", place)
        sae = to_published(raw, 1.0, torch.zeros(raw.d_model), {})
    return SparseAutoencoder(sae.weights | {"mean_D": activations.mean_D}, sae.config | {"scale": activations.scale})


class Measure:
    """Holds the model and the held-out sample."""

    def __init__(self, study: Study, data: Path) -> None:
        self.activations, self._corpus = ActivationReader.open(data / "activations"), CorpusReader.open(data / "corpus")
        index_N = self.activations.token_index("held_out")
        chosen = torch.randperm(len(index_N), generator=torch.Generator().manual_seed(0))[:N_HELD_OUT].sort().values
        self._r_ND = self.activations.gather(index_N[chosen])
        self._model = load_language_model(study.model, study.hook, dtype=study.model.dtype)
        baselines = pl.read_parquet(data / "activations" / "splice_baselines.parquet").sort("token_index")
        block = pl.col("token_index") // self.activations.context
        blocks = baselines.select(block.unique().sort())["token_index"].to_list()[:N_SPLICE_BLOCKS]
        self._sample = baselines.filter(block.is_in(blocks))

    @torch.no_grad()
    def __call__(self, sae: SparseAutoencoder) -> dict[str, Any]:
        """One row of results."""
        codes = sae.encode_sparse(self._r_ND)
        reconstruction, activity = Reconstruction(sae.d_model), Activity(sae.n_features)
        reconstruction.add(sae.scaled(self._r_ND), sae.scaled(sae.decode_sparse(codes)))
        activity.add(len(self._r_ND), codes.feature)
        ce = {name: float(self._sample[name].cast(pl.Float64).mean()) for name in ("ce_clean", "ce_zero")}  # pyright: ignore
        spliced = self._spliced(sae)
        return {
            "l0": activity.l0(), "explained_variance": reconstruction.explained_variance(),
            "alive_fraction": activity.alive_fraction(), "ce_recovered": ce_recovered(ce["ce_clean"], spliced, ce["ce_zero"]),
            "ce_spliced": spliced, "n_tokens_spliced": self._sample.height, **ce,
        }  # fmt: skip

    def _spliced(self, sae: SparseAutoencoder) -> float:
        context = self.activations.context
        index_S = torch.from_numpy(self._sample["token_index"].to_numpy().copy())
        block_S, position_S = torch.div(index_S, context, rounding_mode="floor"), index_S % context
        found = []
        for block_B in block_S.unique().split(BLOCKS_AT_ONCE):
            ids_BT = torch.from_numpy(self._corpus.token_ids_BT[block_B.numpy()].astype(np.int64))
            index_N = (block_B[:, None] * context + torch.arange(context)).flatten()
            r_BTD = self.activations.gather(index_N).reshape(len(block_B), context, -1)
            kept_BT = self.activations.reason_BT[block_B] == KEEP
            r_BTD[kept_BT] = sae.reconstruct(r_BTD[kept_BT]).to(r_BTD)
            here = torch.isin(block_S, block_B)
            row_N, position_N = torch.searchsorted(block_B, block_S[here]), position_S[here]
            logits_NV = self._model.logits_from(r_BTD, ids_BT)[row_N, position_N]
            found.append(next_token_cross_entropy(logits_NV, ids_BT[row_N, position_N + 1]).double())
        return float(torch.cat(found).mean())
