"""Statistics over the same latents: ours, and delphi's latent cache. A step is a batch of tokens; a pass's last step finishes it.

Latents: the k largest of `x W_dec`, in the form that each side's encoder gives. Ours: active (token, feature) pairs; delphi's: a
dense array. Neither's encoder is timed. What a finished pass has: ours counts, densities, maxima, means, documents, top tokens,
the population of every activation interval, the 20 strongest of distinct documents, 5 uniform samples of each interval; delphi's
every latent's activations in memory and firing counts. Option `files`: and the activations on disk, sorted (ours) or in splits.

Shapes: N tokens of a batch, F features, K active.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.setting import Spec, initial_decoder, settings_of

CONTEXT, DOCUMENT = 128, 512  # tokens
PASS_BATCHES = 128
N_TOP, N_PER_INTERVAL, N_SPLITS = 20, 5, 5


class Latents:
    """Codes of every batch, made once."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        W_FD, k = torch.from_numpy(initial_decoder(spec.shape, spec.seed)), spec.shape.k
        self.n_features = spec.shape.n_features
        self.codes: list[tuple[Tensor, Tensor]] = []  # features ascending and their values, N x K
        for batch in np.split(x_ND, len(x_ND) // spec.shape.batch):
            top = (torch.from_numpy(batch) @ W_FD.T).topk(k, dim=1)
            feature_NK, order_NK = top.indices.sort(dim=1)
            self.codes.append((feature_NK.int(), top.values.gather(1, order_NK)))


class OurStatistics:
    """`sae_pipeline.features` from the codes to all statistics and chosen examples, without windows of text."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from sae_pipeline.study import Features

        self._latents, self._shape = Latents(spec, x_ND), spec.shape
        self._files = bool((spec.options or {}).get("files", False))
        self._settings = Features(n_top=N_TOP, n_per_interval=N_PER_INTERVAL)
        draw, n_tokens = np.random.default_rng(0), PASS_BATCHES * spec.shape.batch
        self._token_id = draw.integers(0, 50_000, n_tokens)
        self._document = np.arange(n_tokens) // DOCUMENT
        self._text = np.arange(50_000).astype(str).astype(object)
        self._folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self._begin()
        self.config = {
            "n_top": N_TOP,
            "n_per_interval": N_PER_INTERVAL,
            "pass_tokens": n_tokens,
            "files": self._files,
        }

    def _begin(self) -> None:
        from sae_pipeline.features.runs import Runs

        shutil.rmtree(self._folder / "runs", ignore_errors=True)
        splits = ("train", "held_out")
        self._runs = {split: Runs(self._folder / "runs" / split, self._shape.n_features) for split in splits}
        self._n = 0

    def step(self, x_ND: Tensor) -> None:
        """One batch; the last of a pass computes everything."""
        feature_NK, value_NK = self._latents.codes[self._n % len(self._latents.codes)]
        n, k = feature_NK.shape
        token_N, count_N = np.arange(self._n * n, (self._n + 1) * n), np.full(n, k)
        self._runs["train"].add(token_N, count_N, feature_NK.flatten().numpy(), value_NK.flatten().numpy())
        self._n += 1
        if self._n == PASS_BATCHES:
            self._finish()
            self._begin()

    def _finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(count, maximum, sum of the top examples) by feature."""
        from contextlib import ExitStack

        from sae_pipeline.features.cache import CacheWriter
        from sae_pipeline.features.chunks import chunks
        from sae_pipeline.features.examples import chosen
        from sae_pipeline.features.selection import document_runs
        from sae_pipeline.features.statistics import cells_by_split, feature_rows, interval_rows

        n_features, n_tokens = self._shape.n_features, {"train": self._n * self._shape.batch, "held_out": 0}
        found = np.zeros((3, n_features))
        with ExitStack() as stack:
            path = self._folder / "activations.parquet"
            writer = stack.enter_context(CacheWriter(path, n_features)) if self._files else None
            self._runs["train"].finish()
            for chunk in chunks(self._runs):
                train, first, last = chunk.by_split["train"], chunk.first_feature, chunk.first_feature + chunk.n_features
                if writer:
                    writer.write(train, first)
                cells, first_row_R = cells_by_split(chunk), document_runs(train, self._document[train.token_index])
                rows = feature_rows(chunk, self._token_id, first_row_R, self._text, n_tokens)
                interval_rows(chunk, cells)
                row_E, _, is_top_E = chosen(chunk, "train", cells["train"], first_row_R, self._settings)
                top_E = row_E[is_top_E]
                top_F = np.bincount(train.unit_Z[top_E], weights=train.value[top_E], minlength=chunk.n_features)
                found[:, first:last] = rows["n_active_train"].to_numpy(), rows["max_activation"].to_numpy(), top_F
        return found[0], found[1], found[2]

    def mse(self, x_ND: Tensor) -> float:
        """Not an error but one number of the statistics of 8 batches: equal if they are."""
        for _ in self._latents.codes:
            self.step(x_ND)
        total = checksum(*self._finish())
        self._begin()
        return total


class DelphiCache:
    """delphi's `InMemoryCache.add` and the firing counts of `LatentCache.run`, which ends with `save`."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from importlib.metadata import version

        latents = Latents(spec, x_ND)
        self._n_features, self._files = spec.shape.n_features, bool((spec.options or {}).get("files", False))
        self._rows = spec.shape.batch // CONTEXT
        self._dense: list[Tensor] = []
        for feature_NK, value_NK in latents.codes:
            f_NF = torch.zeros(len(feature_NK), self._n_features).scatter_(1, feature_NK.long(), value_NK)
            self._dense.append(f_NF.unflatten(0, (self._rows, CONTEXT)))
        self._tokens = torch.randint(50_000, (self._rows, CONTEXT), generator=torch.Generator().manual_seed(0))
        self._folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self._begin()
        self.config = {
            "version": version("eai-delphi"), "n_splits": N_SPLITS, "files": self._files, "batch_rows": self._rows,
            "latent_cache": settings_of(self._cache), "in_memory_cache": settings_of(self._cache.cache),
        }  # fmt: skip

    def _begin(self) -> None:
        from delphi.latents import LatentCache

        model: Any = None  # it only stands beside the cache; what runs it is not called
        self._cache, self._n = LatentCache(model, {}, batch_size=self._rows), 0
        self._cache.width = self._n_features

    def step(self, x_ND: Tensor) -> None:
        """One batch, as in the loop of `LatentCache.run`."""
        latents = self._dense[self._n % len(self._dense)]
        self._cache.cache.add(latents, self._tokens, self._n, "hook")
        counts = (latents.cpu() > 0).sum((0, 1))
        self._counts = counts if self._n == 0 else self._counts + counts
        self._n += 1
        if self._n == PASS_BATCHES:
            self._cache.cache.save()
            if self._files:
                self._cache.save_splits(N_SPLITS, self._folder)
            self._begin()

    def mse(self, x_ND: Tensor) -> float:
        """The number of `OurStatistics.mse`, from this cache's own contents; maxima and top examples one feature at a time."""
        for _ in self._dense:
            self.step(x_ND)
        self._cache.cache.save()
        row_Z3, value_Z = (
            part["hook"].numpy() for part in (self._cache.cache.latent_locations, self._cache.cache.latent_activations)
        )
        document_Z = (row_Z3[:, 0] * CONTEXT + row_Z3[:, 1]) // DOCUMENT
        max_F, top_F = np.zeros(self._n_features), np.zeros(self._n_features)
        order = np.argsort(row_Z3[:, 2], kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(row_Z3[order, 2])) + 1):
            feature, strongest = row_Z3[rows[0], 2], {}
            for document, value in zip(document_Z[rows].tolist(), value_Z[rows].tolist(), strict=True):
                strongest[document] = max(value, strongest.get(document, 0))
            best = sorted(strongest.values(), reverse=True)[:N_TOP]
            max_F[feature], top_F[feature] = best[0], sum(best)
        total = checksum(self._counts.numpy(), max_F, top_F)
        self._begin()
        return total


def checksum(*columns: np.ndarray) -> float:
    """A weighted sum, other weights for every feature."""
    weights = np.random.default_rng(1).random((len(columns), len(columns[0])))
    return float(sum((w * column).sum() for w, column in zip(weights, columns, strict=True)))


PASSES = {"our statistics": OurStatistics, "delphi cache": DelphiCache}
