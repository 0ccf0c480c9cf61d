"""A corpus, an SAE and feature statistics for the tiny model, made by hand: steering is tested without the stages before it.

The SAE's first features are the directions of topics: the mean activation of a topic's words minus the mean of all.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from tests.conftest import TOPICS, tiny_documents

CONTEXT, N_FEATURES, SCALE = 32, 24, 0.8


@dataclass(frozen=True)
class TinyArtefacts:
    """Folders in the store's layout."""

    root: Path
    lm: LanguageModel

    @property
    def corpus(self) -> CorpusReader:
        return CorpusReader.open(self.root / "corpus")

    @property
    def sae(self) -> Path:
        return self.root / "sae" / str(N_FEATURES)

    @property
    def feature_stats(self) -> Path:
        return self.root / "feature_stats" / str(N_FEATURES)


def make_artefacts(lm: LanguageModel, root: Path) -> TinyArtefacts:
    """Write `corpus/`, `sae/24/` and `feature_stats/24/` under `root`."""
    made = TinyArtefacts(root, lm)
    _write_corpus(lm, root / "corpus")
    corpus = made.corpus
    ids_BT = torch.tensor(corpus.token_ids_BT).long()
    r_BTD = lm.residual(ids_BT).float()
    sae = _topic_sae(corpus, r_BTD)
    sae.save(made.sae)
    _write_statistics(corpus, sae, r_BTD, made.feature_stats)
    return made


def _write_corpus(lm: LanguageModel, folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = []
    for doc_id, text in enumerate(tiny_documents(40, seed=3)):
        ids = lm.tokenize(text, bos=False)
        for start in range(0, len(ids) - CONTEXT + 1, CONTEXT - 1):
            piece = ids[start : start + CONTEXT - 1]
            if len(piece) == CONTEXT - 1:
                split = "held_out" if doc_id % 5 == 4 else "train"
                rows.append((len(rows), split, [lm.bos_id, *piece], [-1, *[doc_id] * (CONTEXT - 1)]))
    fixed = pa.list_(pa.int32(), CONTEXT)
    block, split, ids, docs = zip(*rows, strict=True)
    columns = {"block": pa.array(block, pa.int32()), "split": list(split)}
    columns |= {"token_ids": pa.array(ids, fixed), "doc_ids": pa.array(docs, fixed)}
    pq.write_table(pa.table(columns), folder / "blocks.parquet")
    text = [lm.tokenizer.decode([i]) for i in range(lm.vocab_size)]
    pl.DataFrame({"token_id": range(lm.vocab_size), "text": text}, schema_overrides={"token_id": pl.Int32}).write_parquet(
        folder / "vocabulary.parquet"
    )


def _topic_sae(corpus: CorpusReader, r_BTD: torch.Tensor) -> SparseAutoencoder:
    d_model = r_BTD.shape[-1]
    mean_D = r_BTD[:, 1:].reshape(-1, d_model).mean(0)
    draw = torch.Generator().manual_seed(0)
    direction_FD = torch.randn(N_FEATURES, d_model, generator=draw)
    for i, words in enumerate(TOPICS.values()):
        on_BT = torch.tensor(np.isin(corpus.token_ids_BT, _ids_of(corpus, words)))
        direction_FD[i] = r_BTD[on_BT].mean(0) - mean_D
    direction_FD /= direction_FD.norm(dim=1, keepdim=True)
    x_ND = ((r_BTD[:, 1:] - mean_D) * SCALE).reshape(-1, d_model)
    threshold_F = torch.quantile(x_ND @ direction_FD.T, 0.96, dim=0)
    weights = {
        "W_enc_FD": direction_FD, "b_enc_F": torch.zeros(N_FEATURES), "W_dec_FD": direction_FD.clone(),
        "b_dec_D": torch.zeros(d_model), "threshold_F": threshold_F, "mean_D": mean_D,
    }  # fmt: skip
    threshold_norm = 3 * float(r_BTD[:, 1:].norm(dim=-1).median())
    config = {
        "architecture": "batch_topk",
        "n_features": N_FEATURES,
        "d_model": d_model,
        "scale": SCALE,
        "threshold_norm": threshold_norm,
    }
    return SparseAutoencoder(weights, config)


def _ids_of(corpus: CorpusReader, words: list[str]) -> list[int]:
    return [i for i, text in enumerate(corpus.token_text) if text.strip() in words]


def _write_statistics(corpus: CorpusReader, sae: SparseAutoencoder, r_BTD: torch.Tensor, folder: Path) -> None:
    folder.mkdir(parents=True)
    f_BTF = sae.encode(r_BTD.reshape(-1, r_BTD.shape[-1])).reshape(*r_BTD.shape[:2], -1)
    f_BTF[:, 0] = 0
    f_BTF[torch.from_numpy(corpus.held_out_B)] = 0
    feature, token = np.nonzero(f_BTF.reshape(-1, N_FEATURES).T.numpy())
    value = f_BTF.reshape(-1, N_FEATURES).numpy()[token, feature]
    table = pa.table(
        {"feature": pa.array(feature, pa.int32()), "token_index": pa.array(token, pa.int64()), "value": pa.array(value)}
    )
    pq.write_table(table.replace_schema_metadata({"n_units": str(N_FEATURES)}), folder / "activations_train.parquet")
    n_train = int((~corpus.held_out_B).sum()) * (CONTEXT - 1)
    doc_N = corpus.doc_ids_BT.reshape(-1)
    pl.DataFrame(
        {
            "feature": pl.Series(range(N_FEATURES), dtype=pl.Int32),
            "alive": [True] * N_FEATURES,
            "density": [float((feature == i).sum() / n_train) for i in range(N_FEATURES)],
            "max_activation": [float(value[feature == i].max(initial=0)) for i in range(N_FEATURES)],
            "top_token": [" ship"] * N_FEATURES,
            "n_documents_train": [len(set(doc_N[token[feature == i]])) for i in range(N_FEATURES)],
        }
    ).write_parquet(folder / "features.parquet")
