"""Read the files of other tools without running anything in them, and say in one sentence what is wrong with one.

No pickle executes: `.npz` without object arrays, `.pt` with weights only.
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.errors import UserError

AGAIN = "Download or copy the file again."


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` when it is missing, not JSON, or something else than an object."""
    try:
        found = json.loads(_existing(file).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(str(file), f"is not JSON ({error})", AGAIN) from error
    if not isinstance(found, dict):
        raise UserError(str(file), f"holds a {type(found).__name__} where a mapping is expected", "Check the file.")
    return found


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Every tensor by key. Raises `UserError` for a missing, truncated or foreign file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(_existing(file))
    except (SafetensorError, ValueError) as error:
        raise UserError(str(file), f"is truncated or no safetensors file ({error})", AGAIN) from error


def read_npz(file: Path) -> dict[str, Tensor]:
    """Every array by key. Raises `UserError` for a truncated archive and for arrays of Python objects, which are never loaded."""
    import numpy as np

    found: dict[str, Tensor] = {}
    key = ""
    try:
        archive = np.load(_existing(file), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(str(file), "is a single array, not an archive of named ones (.npz)", "Check the file.")
        with archive:
            for key in archive.files:
                array = archive[key]
                if array.dtype.kind not in "fiub":
                    raise UserError(str(file), f"key {key} holds {array.dtype}, not numbers", "Use a file of plain arrays.")
                found[key] = torch.from_numpy(array)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        if "allow_pickle" in str(error):
            what = f"{f'key {key}' if key else 'it'} holds Python objects, which can run code and are never loaded"
            raise UserError(str(file), what, "Save plain arrays with numpy.savez.") from error
        raise UserError(str(file), f"is truncated or no .npz archive ({error})", AGAIN) from error
    return found


def read_pt(file: Path) -> dict[str, Any]:
    """A state dict saved by `torch.save`, weights only. Raises `UserError` when it holds code or is no mapping."""
    try:
        found = torch.load(_existing(file), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = f"holds more than weights, which could run code and is never loaded ({_cause(error)})"
        raise UserError(str(file), what, "Save its state dict alone: torch.save(sae.state_dict(), file).") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise UserError(str(file), f"is truncated or no file of torch.save ({_cause(error)})", AGAIN) from error
    if not isinstance(found, dict):
        what = f"holds a {type(found).__name__}, not a state dict"
        raise UserError(str(file), what, "Save its state dict: torch.save(sae.state_dict(), file).")
    return found


def _existing(file: Path) -> Path:
    if not file.is_file():
        beside = ", ".join(sorted(path.name for path in file.parent.glob("*"))[:8]) if file.parent.is_dir() else ""
        mend = f"In {file.parent} there is: {beside or 'nothing'}. Check path and format (see `sae-pipeline import --help`)."
        raise UserError(str(file), "is not there", mend)
    return file


def _cause(error: BaseException) -> str:
    """What the message is about: the global that weights-only loading refused, or its first line."""
    text = str(error)
    if "GLOBAL" in text:
        return next((part for part in text.split() if "." in part and part.split(".")[0].isidentifier()), "a Python object")
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)[:160]
