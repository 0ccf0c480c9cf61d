"""One shard on disk. Needs no model, so that benchmarks write shards with nothing but PyTorch at hand."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_shard(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write beside `path` and rename: a shard that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.rename(path)
