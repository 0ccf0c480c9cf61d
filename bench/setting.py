"""What is measured on: shapes, planted data, equal initial weights. NumPy alone, so that every environment can read it.

Shapes: N tokens of a batch, F features, D width.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

N_BATCHES = 8  # rotated, so that no step finds its input in a cache


@dataclass(frozen=True)
class Shape:
    """One problem size."""

    name: str
    d_model: int
    n_features: int
    k: int
    batch: int


SHAPES = {
    "T": Shape("T", 64, 1024, 8, 512),
    "S": Shape("S", 576, 8192, 32, 1024),
    "S4": Shape("S4", 576, 8192, 32, 4096),
    "S8": Shape("S8", 576, 8192, 32, 8192),
    "M": Shape("M", 768, 24_576, 32, 1024),
    "L": Shape("L", 2304, 16_384, 64, 4096),
    "statistics": Shape("statistics", 576, 16_384, 32, 1024),
    "dashboards": Shape("dashboards", 576, 1024, 32, 32_768),
    "neighbours": Shape("neighbours", 576, 65_536, 1, 1024),
    "XL": Shape("XL", 2304, 65_536, 64, 16_384),
}


@dataclass(frozen=True)
class Spec:
    """One contender at one shape. `dtype`: of its large products. `options`: what is its own (see the contender)."""

    contender: str
    shape: Shape
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    architecture: str = "topk"
    learning_rate: float = 1e-4
    target_l0: int | None = None
    options: dict[str, Any] | None = None
    seed: int = 1
    environment: str = "trainers"
    """Whose packages are there: see `bench.environment`."""

    @property
    def label(self) -> str:
        """Its name in results."""
        own = "".join(f", {key}={value}" for key, value in (self.options or {}).items())
        return f"{self.contender} {self.dtype}{own}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def spec_of(raw: dict[str, Any]) -> Spec:
    """Inverse of `Spec.as_dict`."""
    return Spec(**(raw | {"shape": Shape(**raw["shape"])}))


def settings_of(thing: Any) -> dict[str, Any]:
    """What a peer's object was set to: those of its attributes that are plain values."""
    return {name: value for name, value in vars(thing).items() if isinstance(value, bool | int | float | str | None)}


def data_file(folder: Path, shape: Shape) -> Path:
    """Activations of this width and batch, written when they are not there: sparse sums of known directions plus noise, scaled to
    E‖x‖² = D."""
    file = folder / f"planted-{shape.d_model}-{shape.batch}.npy"
    if not file.is_file():
        draw = np.random.default_rng(0)
        n, n_directions, n_active = N_BATCHES * shape.batch, 4 * shape.d_model, 16
        directions = draw.standard_normal((n_directions, shape.d_model), dtype=np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        x_ND = 0.1 * draw.standard_normal((n, shape.d_model), dtype=np.float32)
        for _ in range(n_active):
            strength_N = draw.exponential(size=(n, 1)).astype(np.float32)
            x_ND += strength_N * directions[(n_directions * draw.random(n) ** 2).astype(np.int64)]
        x_ND -= x_ND.mean(0)
        x_ND *= np.sqrt(shape.d_model / np.mean(np.sum(x_ND**2, axis=1)))
        folder.mkdir(parents=True, exist_ok=True)
        np.save(file, x_ND)
    return file


def initial_decoder(shape: Shape, seed: int = 1) -> np.ndarray:
    """Unit rows, F x D; every contender starts with W_enc = W_dec transposed and biases 0."""
    W_FD = np.random.default_rng(seed).standard_normal((shape.n_features, shape.d_model), dtype=np.float32)
    return W_FD / np.linalg.norm(W_FD, axis=1, keepdims=True)


def bias_for_l0(x_ND: np.ndarray, W_FD: np.ndarray, l0: int) -> float:
    """The bias, equal for all features, with which a token of the first batch has `l0` positive pre-activations on average."""
    z = (x_ND[:256] @ W_FD.T).reshape(-1)
    n_keep = l0 * min(256, len(x_ND))
    return -float(np.partition(z, -n_keep)[-n_keep])
