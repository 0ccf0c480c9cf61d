"""Activations on disk, written and read in order: our shards, a file of the values alone, SAELens's Arrow data set, torch.save.

A step is a batch of 4,096 tokens. Option `way`: `write` (every eighth step writes a shard of 32,768 tokens) or `read` (all
shards, batch after batch, each a copy in memory). A shard is a new file, as in a harvest; the one that it replaces is removed
first, so that nobody waits for new pages. float32 everywhere: Arrow has no bfloat16. Files lie in the page cache and time
is processor time, so what is compared is the work per byte, not the disk. Ours also hold what stands beside activations (norms,
documents, positions), and reading looks up which tokens are wanted.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.setting import Spec
from sae_pipeline.activations.reader import KEEP, ActivationReader
from sae_pipeline.activations.shard_file import write_shard

CONTEXT, N_SHARDS = 128, 4


class _Store:
    """Writes or reads; a subclass says how one shard is written and how all are read."""

    suffix = ""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        self._x_ND, self._batch = torch.from_numpy(x_ND), spec.shape.batch
        self._writes = (spec.options or {})["way"] == "write"
        self._folder, self._n = Path(tempfile.mkdtemp(prefix="bench-")), 0
        for number in range(N_SHARDS):
            self.write(self.shard(number))
        self._batches = self.batches()
        size = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
        values = N_SHARDS * self._x_ND.numel()
        self.config = {"bytes_per_token": 4 * spec.shape.d_model, "file_bytes_per_value": size / values, "shards": N_SHARDS}

    def shard(self, number: int) -> Path:
        """Where a shard lies."""
        return self._folder / f"{number:05d}{self.suffix}"

    def write(self, path: Path) -> None:
        """One shard with all rows."""
        raise NotImplementedError

    def batches(self) -> Iterator[Tensor]:
        """All shards in order, N x D at a time."""
        raise NotImplementedError

    def step(self, x_ND: Tensor) -> None:
        """One batch."""
        self._n += 1
        if not self._writes:
            batch_ND = next(self._batches, None)
            if batch_ND is None:
                self._batches = self.batches()
                next(self._batches)
        elif self._n * self._batch % len(self._x_ND) == 0:
            path = self.shard(self._n * self._batch // len(self._x_ND) % N_SHARDS)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.write(path)

    def mse(self, x_ND: Tensor) -> float:
        """Not an error but the sum of the magnitudes of all values read back: equal if they are."""
        return sum(float(batch_ND.abs().sum(dtype=torch.float64)) for batch_ND in self.batches())


class OurShards(_Store):
    """`write_shard` and `ActivationReader.stream`."""

    suffix = ".safetensors"

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        x_BTD = torch.from_numpy(x_ND).unflatten(0, (-1, CONTEXT))
        ids_BT = torch.zeros(x_BTD.shape[:2], dtype=torch.int32)
        self._tensors = {
            "activations_BTD": x_BTD, "neurons_BTM": x_BTD[..., :0].contiguous(), "norm_BT": x_BTD.norm(dim=-1),
            "token_ids_BT": ids_BT, "doc_ids_BT": ids_BT.clone(), "position_BT": ids_BT.short(),
        }  # fmt: skip
        super().__init__(spec, x_ND)

    def write(self, path: Path) -> None:
        """See `_Store`."""
        write_shard(path, self._tensors, {"shard": path.stem})

    def batches(self) -> Iterator[Tensor]:
        """See `_Store`."""
        from safetensors.torch import load_file

        shards = [load_file(path) for path in sorted(self._folder.iterdir())]
        reason_BT = torch.full((sum(len(shard["norm_BT"]) for shard in shards), CONTEXT), KEEP, dtype=torch.uint8)
        nothing_held_out_B, zeros_D = torch.zeros(len(reason_BT), dtype=torch.bool), torch.zeros(self._x_ND.shape[1])
        reader = ActivationReader(self._folder, {}, shards, reason_BT, nothing_held_out_B, zeros_D, zeros_D)
        return (r_ND for _, r_ND in reader.stream("train", self._batch))


class RawFile(_Store):
    """The values alone in one file a shard, read into arrays: as fast as files go."""

    def write(self, path: Path) -> None:
        """See `_Store`."""
        self._x_ND.numpy().tofile(path)

    def batches(self) -> Iterator[Tensor]:
        """See `_Store`."""
        width = self._x_ND.shape[1]
        for path in sorted(self._folder.iterdir()):
            with path.open("rb") as file:
                while len(values := np.fromfile(file, np.float32, self._batch * width)):
                    yield torch.from_numpy(values).view(-1, width)


class ArrowDataset(_Store):
    """As SAELens's `CacheActivationsRunner` writes shards, and its `ActivationsStore` reads them."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        from importlib.metadata import version

        import datasets

        datasets.disable_progress_bars()
        super().__init__(spec, x_ND)
        self.config |= {"version": version("datasets"), "context": CONTEXT}

    def write(self, path: Path) -> None:
        """See `_Store`."""
        from datasets import Array2D, Dataset, Features

        x_BTD = self._x_ND.unflatten(0, (-1, CONTEXT))
        columns = Features({"hook": Array2D(shape=tuple(x_BTD.shape[1:]), dtype="float32")})
        Dataset.from_dict({"hook": x_BTD}, features=columns).save_to_disk(str(path), num_shards=1)

    def batches(self) -> Iterator[Tensor]:
        """See `_Store`."""
        from datasets import Dataset, concatenate_datasets

        shards = [Dataset.load_from_disk(str(path)) for path in sorted(self._folder.iterdir())]
        rows: Any = concatenate_datasets(shards)
        rows.set_format(type="torch", columns=["hook"], device="cpu", dtype=torch.float32)
        n = self._batch // CONTEXT
        return (rows[first : first + n]["hook"].flatten(0, 1) for first in range(0, len(rows), n))


class TorchSave(_Store):
    """`torch.save` and `torch.load` of one tensor a shard."""

    def write(self, path: Path) -> None:
        """See `_Store`."""
        torch.save(self._x_ND, path)

    def batches(self) -> Iterator[Tensor]:
        """See `_Store`."""
        for path in sorted(self._folder.iterdir()):
            yield from torch.load(path, weights_only=True).split(self._batch)


STORES = {"our shards": OurShards, "raw file": RawFile, "Arrow data set": ArrowDataset, "torch.save": TorchSave}
