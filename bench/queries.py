"""The 20 strongest activations of every feature, from disk: DuckDB over our sorted file, and delphi's split files.

The same planted latents on both sides, written once before anything is timed. A step is a batch of tokens; every 128th step asks
for all features of all 131,072 tokens. delphi: `TensorBuffer` loads a split and sorts it by latent, then the largest of each.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.passes import CONTEXT, N_SPLITS, N_TOP, PASS_BATCHES, Latents
from bench.setting import Spec, settings_of


def _batches(spec: Spec, x_ND: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(features ascending, values), N x K each, of 128 batches: no two alike, so that no file is small by repetition."""
    latents, draw = Latents(spec, x_ND), np.random.default_rng(2)
    for n in range(PASS_BATCHES):
        feature_NK, value_NK = latents.codes[n % len(latents.codes)]
        moved_NK = (feature_NK.numpy() + 977 * (n // len(latents.codes))) % latents.n_features
        factor_NK = draw.uniform(0.5, 1.5, moved_NK.shape).astype(np.float32)
        order_NK = np.argsort(moved_NK, axis=1)
        yield np.take_along_axis(moved_NK, order_NK, 1), np.take_along_axis(value_NK.numpy() * factor_NK, order_NK, 1)


class _Query:
    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        self._spec, self._n, self._folder = spec, 0, Path(tempfile.mkdtemp(prefix="bench-"))
        n_pairs = self.write(x_ND)
        size = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
        self.config: dict[str, Any] = {"n_top": N_TOP, "non_zeros": n_pairs, "bytes_per_non_zero": size / n_pairs}

    def write(self, x_ND: np.ndarray) -> int:
        """Write all latents; how many are not zero."""
        raise NotImplementedError

    def strongest(self) -> float:
        """Find them; the sum of all values found."""
        raise NotImplementedError

    def step(self, x_ND: Tensor) -> None:
        """Nothing, and in every 128th step everything."""
        self._n += 1
        if self._n % PASS_BATCHES == 0:
            self.strongest()

    def mse(self, x_ND: Tensor) -> float:
        """Not an error but the sum of the strongest values: equal if they are (delphi stores half precision)."""
        return self.strongest()


class OurQuery(_Query):
    """The statement of docs/metrics.md's kind, for all features at once. One connection stays open, as in the feature browser:
    DuckDB then opens the file, and takes its memory from the kernel, once."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        import duckdb

        super().__init__(spec, x_ND)
        self._connection = duckdb.connect(config={"threads": 1})
        self.config |= {"version": duckdb.__version__, "connection": "stays open"}

    def write(self, x_ND: np.ndarray) -> int:
        """See `_Query`."""
        from sae_pipeline.features.cache import CacheWriter
        from sae_pipeline.features.chunks import chunks
        from sae_pipeline.features.runs import Runs

        n_features, n_pairs = self._spec.shape.n_features, 0
        with tempfile.TemporaryDirectory() as scratch:
            runs = Runs(Path(scratch) / "runs", n_features)
            for n, (feature_NK, value_NK) in enumerate(_batches(self._spec, x_ND)):
                n_tokens, k = feature_NK.shape
                token_N, count_N = np.arange(n * n_tokens, (n + 1) * n_tokens), np.full(n_tokens, k)
                runs.add(token_N, count_N, feature_NK.ravel(), value_NK.ravel())
                n_pairs += value_NK.size
            runs.finish()
            with CacheWriter(self._folder / "activations.parquet", n_features) as writer:
                for chunk in chunks({"train": runs}):
                    writer.write(chunk.by_split["train"], chunk.first_feature)
        return n_pairs

    def strongest(self) -> float:
        """See `_Query`."""
        found = self._connection.sql(
            f"select feature, arg_max(token_index, value, {N_TOP}) as tokens, max(value, {N_TOP}) as strongest "
            f"from '{self._folder / 'activations.parquet'}' group by feature"
        )
        assert found  # None is of statements that return nothing
        rows = found.to_arrow_table()
        return float(np.sum(rows["strongest"].combine_chunks().flatten().to_numpy(), dtype=np.float64))


class DelphiQuery(_Query):
    """`LatentCache.save_splits`, without the tokens, and `TensorBuffer`."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from importlib.metadata import version

        super().__init__(spec, x_ND)
        self.config |= {"version": version("eai-delphi"), "n_splits": N_SPLITS, "save_tokens": False} | self._cache_settings

    def write(self, x_ND: np.ndarray) -> int:
        """See `_Query`."""
        from delphi.latents import LatentCache

        shape, model = self._spec.shape, None
        rows = shape.batch // CONTEXT
        unused: Any = model
        cache = LatentCache(unused, {}, batch_size=rows)
        cache.width, n_pairs = shape.n_features, 0
        tokens = torch.zeros(rows, CONTEXT, dtype=torch.int64)
        for n, (feature_NK, value_NK) in enumerate(_batches(self._spec, x_ND)):
            f_NF = torch.zeros(len(feature_NK), shape.n_features)
            f_NF.scatter_(1, torch.from_numpy(feature_NK).long(), torch.from_numpy(value_NK))
            cache.cache.add(f_NF.unflatten(0, (rows, CONTEXT)), tokens, n, "hook")
            n_pairs += value_NK.size
        cache.cache.save()
        cache.save_splits(N_SPLITS, self._folder, save_tokens=False)
        self._cache_settings = {"latent_cache": settings_of(cache), "in_memory_cache": settings_of(cache.cache)}
        return n_pairs

    def strongest(self) -> float:
        """See `_Query`."""
        from delphi.latents.loader import TensorBuffer

        total = 0.0
        for path in sorted((self._folder / "hook").glob("*.safetensors")):
            _, locations, activations = TensorBuffer(str(path), "hook").load_data_per_latent()
            for location_Z3, value_Z in zip(locations, activations, strict=True):
                top = value_Z.topk(min(N_TOP, len(value_Z)))
                location_Z3[top.indices]
                total += float(top.values.sum(dtype=torch.float64))
        return total


QUERIES = {"our sorted file": OurQuery, "delphi splits": DelphiQuery}
