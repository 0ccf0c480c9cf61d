"""Everything known about the features of one SAE, written as the tables of the stage `feature_stats`."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.cache import CacheWriter, SparseEncoder, cache_file, encode
from sae_pipeline.features.chunks import CHUNK_ROWS, chunks
from sae_pipeline.features.examples import Tokens, example_rows, with_token_texts
from sae_pipeline.features.logits import logit_rows
from sae_pipeline.features.runs import Runs
from sae_pipeline.features.selection import document_runs
from sae_pipeline.features.statistics import cells_by_split, feature_rows, interval_rows
from sae_pipeline.features.strongest_units import StrongestUnits
from sae_pipeline.progress import bar
from sae_pipeline.store import Outcome
from sae_pipeline.study import Features
from sae_pipeline.tables.schemas import conform


class EncoderWithDecoder(SparseEncoder, Protocol):
    """A sparse encoder and its unit decoder rows."""

    @property
    def W_dec_FD(self) -> Tensor: ...


def write_feature_stats(
    corpus: CorpusReader, activations: ActivationReader, sae: EncoderWithDecoder, unembedding_DV: Tensor, settings: Features,
    size: int, work: Path, chunk_rows: int = CHUNK_ROWS,
) -> Outcome:  # fmt: skip
    """Write `activations_<split>`, `features`, `feature_intervals`, `feature_examples`, `feature_logits` and
    `feature_correlations` into `work`.

    Peak memory is set by constants (a run and a chunk of activations) plus some bytes per feature and per corpus token, not by
    tokens x features. `chunk_rows` bounds memory and changes no result. A pass that was killed starts from zero: it is short, and
    nothing of it is published before it is whole.
    """
    for left_over in work.iterdir():
        shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
    what = f"feature_stats {size}"
    strongest = StrongestUnits(sae.n_features, activations.d_model, activations.neuron_ids)
    runs, n_tokens = encode(sae, activations, work / "runs", strongest, what)
    correlations = strongest.table(size)
    correlations.write_parquet(work / "feature_correlations.parquet")
    features = write_statistics(corpus, runs, work, settings, size, n_tokens, chunk_rows, what)
    shutil.rmtree(work / "runs")
    with bar(f"{what}: logit effects", sae.n_features, "features") as progress:
        token_text = np.array(corpus.token_text, dtype=object)
        logits = logit_rows(sae.W_dec_FD, unembedding_DV, token_text, settings.n_logits, size, progress)
    conform("feature_logits", logits).write_parquet(work / "feature_logits.parquet")
    alive = features.filter("alive")
    return Outcome(
        metadata={
            "n_features": sae.n_features,
            "n_alive": len(alive),
            "alive_fraction": len(alive) / sae.n_features,
            "n_tokens_train": n_tokens["train"],
            "n_tokens_held_out": n_tokens["held_out"],
            "n_activations": features.select(pl.sum_horizontal(pl.sum("n_active_train", "n_active_held_out"))).item(),
            "median_density": float(features["density"].median() or 0),  # pyright: ignore[reportArgumentType]
            "n_examples": pq.read_metadata(work / "feature_examples.parquet").num_rows,
            "megabytes": round(sum(file.stat().st_size for file in work.iterdir()) / 1e6, 1),
        }
    )


def write_statistics(
    corpus: CorpusReader,
    runs: dict[str, Runs],
    work: Path,
    settings: Features,
    size: int,
    n_tokens: dict[str, int],
    chunk_rows: int,
    what: str,
) -> pl.DataFrame:
    """Write what follows from the sorted activations of a pass (`activations_<split>`, `features`, `feature_intervals`,
    `feature_examples`) into `work`; returns `features`."""
    tokens = Tokens.of(corpus)
    token_text = np.array(corpus.token_text, dtype=object)
    n_features = runs["train"].n_features
    features, intervals = [], []
    with ExitStack() as stack:
        progress = stack.enter_context(bar(f"{what}: statistics", n_features, "features"))
        writer = stack.enter_context(_ExampleWriter(work / "feature_examples.parquet"))
        caches = {split: stack.enter_context(CacheWriter(cache_file(work, split), n_features)) for split in runs}
        for chunk in chunks(runs, chunk_rows):
            for split, sparse in chunk.by_split.items():
                caches[split].write(sparse, chunk.first_feature)
            cells, train = cells_by_split(chunk), chunk.by_split["train"]
            first_rows = {"train": document_runs(train, tokens.document[train.token_index])}
            features.append(feature_rows(chunk, tokens.token_id, first_rows["train"], token_text, n_tokens))
            intervals.append(interval_rows(chunk, cells))
            rows = pa.concat_tables(
                example_rows(chunk, split, cell_Z, first_rows.get(split), tokens, settings, size)
                for split, cell_Z in cells.items()
            )
            writer.write(with_token_texts(rows.take(np.argsort(rows["feature"].to_numpy(), kind="stable")), tokens))
            progress.update(chunk.n_features)
    with_size = pl.lit(size).alias("size")
    table = conform("features", pl.concat(features).with_columns(with_size))
    table.write_parquet(work / "features.parquet")
    conform("feature_intervals", pl.concat(intervals).with_columns(with_size)).write_parquet(work / "feature_intervals.parquet")
    return table


class _ExampleWriter:
    """Appends examples to one Parquet file, chunk by chunk."""

    def __init__(self, path: Path) -> None:
        self._path, self._writer = path, None

    def __enter__(self) -> "_ExampleWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def write(self, rows: pa.Table) -> None:
        # Without the Arrow schema readers see plain strings: the dictionaries are only how they are stored.
        self._writer = self._writer or pq.ParquetWriter(self._path, rows.schema, compression="zstd", store_schema=False)
        self._writer.write_table(rows)
