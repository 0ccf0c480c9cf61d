"""A small study on disk for the browser: made-up tables, random SAEs on the tiny model, token blocks, cached activations."""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import Study, parse_study
from tests.conftest import tiny_study_mapping
from tests.synthetic_analysis import SIZES, write_synthetic_analysis

CONTEXT = 32
N_BLOCKS = 160


def make_world(model_folder: Path, text_folder: Path, root: Path) -> Study:
    """Write everything under `root/<study>`; returns the study."""
    mapping = tiny_study_mapping(model_folder, text_folder, name="browsed")
    mapping["sae"] |= {"architecture": "relu_l1", "l1": 5.0, "sizes": list(SIZES)}
    del mapping["sae"]["k"]
    study = parse_study(mapping)
    folder = root / study.name
    folder.mkdir(parents=True)
    write_synthetic_analysis(folder / "analysis.duckdb")
    for size in SIZES:
        random_sae(size).save(folder / "sae" / str(size))
        statistics = folder / "feature_stats" / str(size)
        statistics.mkdir(parents=True)
        for split in ("train", "held_out"):
            _cached(size, split).write_parquet(statistics / f"activations_{split}.parquet")
    (folder / "corpus").mkdir()
    tokens = np.arange(N_BLOCKS * CONTEXT).reshape(N_BLOCKS, CONTEXT) % 20
    pl.DataFrame({
        "block": np.arange(N_BLOCKS, dtype=np.int32), "split": ["train"] * N_BLOCKS,
        "token_ids": tokens.astype(np.int32).tolist(), "doc_ids": [[-1] + [3] * (CONTEXT - 1)] * N_BLOCKS,
    }).write_parquet(folder / "corpus" / "blocks.parquet")  # fmt: skip
    return study


def random_sae(size: int, d_model: int = 32) -> SparseAutoencoder:
    """Unit decoder rows, threshold at 1."""
    generator = torch.Generator().manual_seed(size)
    rows_FD = torch.nn.functional.normalize(torch.randn(size, d_model, generator=generator), dim=1)
    weights = {
        "W_enc_FD": rows_FD.clone(), "b_enc_F": torch.zeros(size), "W_dec_FD": rows_FD, "b_dec_D": torch.zeros(d_model),
        "threshold_F": torch.ones(size), "mean_D": torch.zeros(d_model),
    }  # fmt: skip
    config = {"architecture": "relu_l1", "n_features": size, "d_model": d_model, "scale": 1.0, "threshold_norm": 1e6}
    return SparseAutoencoder(weights, config)


def _cached(size: int, split: str) -> pl.DataFrame:
    """Feature 1 has 9.5 at token 40 (block 1, position 8) in training text."""
    rows = (
        {"feature": [1], "token_index": [40], "value": [9.5]}
        if split == "train"
        else {"feature": [2], "token_index": [41], "value": [1.0]}
    )
    return pl.DataFrame(rows, schema={"feature": pl.Int32, "token_index": pl.Int64, "value": pl.Float32})
