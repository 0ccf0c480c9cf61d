"""Checkpoints of a training run: one safetensors file and one small JSON that names it, published in this order by renames.

A process that dies at any moment leaves the previous checkpoint whole. Files are not forced to disk: a power cut may cut one
short, and the digest in the JSON tells.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_pipeline.digests import file_digest
from sae_pipeline.errors import UserError

POINTER = "checkpoint.json"
FORMAT = 2  # of names and meaning of what a checkpoint holds; another one is refused


class BrokenCheckpointError(Exception):
    """A checkpoint's files are not what was written (truncated, changed, unreadable)."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on: tensors by name, and JSON-able `values` (exact: floats keep their bits in JSON)."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Publish `checkpoint`, then remove the one before it. `settings` identify the run that may go on from here."""
    previous = set(folder.glob("checkpoint-*.safetensors"))
    file = folder / f"checkpoint-{checkpoint.step:08d}.safetensors"
    scratch = file.with_suffix(".tmp")
    save_file(checkpoint.tensors, scratch)
    scratch.rename(file)
    pointer = {
        "step": checkpoint.step, "file": file.name, "sha256": file_digest(file), "settings": settings,
        "values": checkpoint.values,
    }  # fmt: skip
    scratch = folder / f"{POINTER}.tmp"
    scratch.write_text(json.dumps(pointer), encoding="utf-8")
    scratch.rename(folder / POINTER)
    for old in previous - {file}:
        old.unlink()


def load(folder: Path, settings: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint in `folder`, None when there is none.

    Raises `BrokenCheckpointError` when its files are damaged, `UserError` when it is of a run with other settings.
    """
    if not (folder / POINTER).is_file():
        return None
    try:
        pointer = json.loads((folder / POINTER).read_text(encoding="utf-8"))
        file = folder / pointer["file"]
        intact = file.is_file() and file_digest(file) == pointer["sha256"]
        step, saved, values = int(pointer["step"]), dict(pointer["settings"]), dict(pointer["values"])
    except (ValueError, KeyError, TypeError) as error:  # no JSON, or other JSON than `save` writes
        raise BrokenCheckpointError(f"{folder / POINTER} is not readable") from error
    if not intact:
        raise BrokenCheckpointError(f"{file} is not the file that was written (missing or other bytes)")
    if saved != settings:
        differing = sorted(name for name in saved.keys() | settings if saved.get(name) != settings.get(name))
        raise UserError(
            str(folder / POINTER), f"is of a run with another {', '.join(differing)}",
            "Delete the file to train from the start, or restore the settings.",
        )  # fmt: skip
    return Checkpoint(step, load_file(file), values)


def remove(folder: Path) -> None:
    """Delete every checkpoint file, whole or half-written."""
    for file in [*folder.glob("checkpoint-*"), *folder.glob(f"{POINTER}*")]:
        file.unlink()
