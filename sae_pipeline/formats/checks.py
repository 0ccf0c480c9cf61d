"""Hold the tensors of a file to the keys and shapes that its format documents. Whatever does not fit is refused by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.errors import UserError


class Tensors:
    """The tensors of one file. Every key must be taken or named as harmless, and the letters of the shapes agree."""

    def __init__(self, file: Path, found: Mapping[str, Any], **dims: Any) -> None:
        """`dims`: what a configuration says, such as D=576 (anything but a whole number: nothing)."""
        self.file = file
        self._left = dict(found)
        self._dims = {letter: (n, "its configuration says") for letter, n in dims.items() if isinstance(n, int)}
        self.dtype = "float32"

    def take(self, key: str, shape: str) -> Tensor:
        """Tensor `key` as float32, with `shape` in letters ("DF"; "" for a single number). Raises `UserError`."""
        if key not in self._left:
            has = ", ".join(sorted(self._left)) or "nothing more"
            raise UserError(str(self.file), f"key {key} is missing", f"It has {has}; check that the format is the right one.")
        value = self._left.pop(key)
        if not isinstance(value, Tensor):
            raise UserError(str(self.file), f"key {key} is a {type(value).__name__}, not a tensor", "Check the file.")
        if value.ndim != len(shape):
            wanted = f"{len(shape)} dimensions ({', '.join(shape)})" if shape else "one number"
            what = f"key {key} has shape {tuple(value.shape)}, expected {wanted}"
            raise UserError(str(self.file), what, "Check that the format is the right one.")
        for letter, n in zip(shape, value.shape, strict=True):
            self._agree(key, tuple(value.shape), shape, letter, n)
        if not value.dtype.is_floating_point:
            raise UserError(str(self.file), f"key {key} holds {value.dtype}, not floating-point numbers", "Check the file.")
        if key.lower() in ("w_dec", "decoder.weight"):
            self.dtype = str(value.dtype).removeprefix("torch.")
        value = value.float()
        if n_bad := int((~torch.isfinite(value)).sum()):
            what = f"key {key} holds {n_bad} values that are NaN or infinite"
            raise UserError(str(self.file), what, "Use another checkpoint; this one is damaged or diverged.")
        return value

    def has(self, key: str) -> bool:
        """Whether `key` is there and not yet taken."""
        return key in self._left

    def drop(self, *keys: str) -> None:
        """Keys that the inference form does not need; missing ones are fine."""
        for key in keys:
            self._left.pop(key, None)

    def finish(self) -> None:
        """Every key must have been taken. Raises `UserError` with the names of the others."""
        if self._left:
            what = f"has keys that this format does not know: {', '.join(sorted(self._left))}"
            raise UserError(str(self.file), what, "They may change what the SAE computes; check the format.")

    def size(self, letter: str) -> int:
        """What the letter stands for."""
        return self._dims[letter][0]

    def _agree(self, key: str, shape: tuple[int, ...], letters: str, letter: str, n: int) -> None:
        known, source = self._dims.setdefault(letter, (n, f"key {key} says"))
        if known != n:
            swapped = " (transposed?)" if len(shape) == 2 and known in shape else ""
            what = f"key {key} has shape {shape} for ({', '.join(letters)}), but {source} {letter} = {known}{swapped}"
            raise UserError(str(self.file), what, "Check that the format is the right one, and the file of the right SAE.")


def field(config: Mapping[str, Any], file: Path, name: str, kind: type, default: Any = ...) -> Any:
    """`config[name]` of the right type. Raises `UserError` when it is missing (without a default) or of another type."""
    value = config.get(name, default)
    if value is ...:
        has = ", ".join(sorted(config)) or "nothing"
        raise UserError(str(file), f"key {name} is missing", f"It has {has}; check that the format is the right one.")
    accepted = (int, float) if kind is float else kind
    if value is not None and (not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool))):
        raise UserError(str(file), f"key {name} = {value!r} is not {kind.__name__}", "Correct the configuration file.")
    return value


def refuse(file: Path, what: str, mend: str) -> UserError:
    """An SAE that this project cannot express, to be raised."""
    return UserError(str(file), what, mend)


def check_k(file: Path, k: Any, n_features: int) -> int:
    """k of a top-k SAE. Raises `UserError` unless it is a whole number from 1 to F."""
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= n_features:
        raise UserError(str(file), f"k = {k!r} is not a whole number from 1 to {n_features}", "Correct the configuration file.")
    return k
