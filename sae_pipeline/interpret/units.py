"""What is explained and scored: SAE features, and beside them neurons, random directions and features of a model that was
never trained, all as sparse activations.

Legend: N tokens, D model width, C control units.

A dense unit (a neuron, a direction) is made sparse like a feature: it counts as active above the threshold that gives it, on
train tokens, the density of one live feature; its activation is what exceeds the threshold. A neuron of a gated MLP has no
preferred sign: it is read in the direction in which its train activations are more skewed, which is its more selective side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load_file, save_file

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.protocols import UnitKind

BATCH_TOKENS = 16_384
CONTROL_UNITS: tuple[UnitKind, ...] = ("random_direction", "mlp_neuron", "random_model_feature")


@dataclass(frozen=True)
class Units:
    """One kind of unit. Column j of `train` and `held_out` belongs to unit `ids[j]`; `explained` are the columns to explain.

    `seen`: the tokens (indices, ascending) on which activity is known; None for all unmasked tokens. Elsewhere a unit is neither
    active nor inactive, so no example may come from there.
    """

    unit: UnitKind
    ids: np.ndarray
    train: SparseActivations
    held_out: SparseActivations
    explained: np.ndarray
    seen: np.ndarray | None = None


def sae_features(folder: Path) -> Units:
    """The features of a `feature_stats/<size>/` artefact; every live one is explained."""
    features = pl.read_parquet(folder / "features.parquet", columns=["feature", "alive"])
    alive = features.filter("alive")["feature"].sort().to_numpy()
    train = SparseActivations.open(folder / "activations_train.parquet")
    held_out = SparseActivations.open(folder / "activations_held_out.parquet")
    return Units("sae_feature", np.arange(train.n_units), train, held_out, alive)


def random_directions(reader: ActivationReader, n_matched_train: np.ndarray, seed: int) -> Units:
    """One random unit vector in scaled space per entry of `n_matched_train`, the train activations of the matched feature."""
    generator = torch.Generator().manual_seed(seed)
    directions_CD = torch.randn(len(n_matched_train), reader.d_model, generator=generator)
    directions_CD /= directions_CD.norm(dim=1, keepdim=True)
    return directions(reader, directions_CD, n_matched_train)


def directions(reader: ActivationReader, directions_CD: torch.Tensor, n_matched_train: np.ndarray) -> Units:
    """Given unit vectors in scaled space (as units of kind `random_direction`), each with that many train activations."""

    def project(token_index: torch.Tensor) -> torch.Tensor:
        return reader.scaled(reader.gather(token_index)) @ directions_CD.T

    return _sparse(reader, "random_direction", np.arange(len(directions_CD)), project, n_matched_train)


def mlp_neurons(reader: ActivationReader, n_matched_train: np.ndarray, seed: int) -> Units:
    """Seeded sample of the stored neurons, at most one per entry of `n_matched_train`; `ids` are the model's neuron numbers."""
    n = min(len(n_matched_train), reader.n_neurons)
    columns = np.sort(np.random.default_rng(seed).choice(reader.n_neurons, n, replace=False))

    def pick(token_index: torch.Tensor) -> torch.Tensor:
        return reader.gather_neurons(token_index)[:, torch.from_numpy(columns)].float()

    return _sparse(reader, "mlp_neuron", np.asarray(reader.neuron_ids)[columns], pick, n_matched_train[:n])


def save_units(units: Sequence[Units], path: Path) -> None:
    """Write control units to one safetensors file, so that later stages need not compute them again."""
    arrays = {}
    for each in units:
        arrays[f"{each.unit}.ids"] = each.ids.astype(np.int64)
        if each.seen is not None:
            arrays[f"{each.unit}.seen"] = each.seen.astype(np.int64)
        for split, activations in (("train", each.train), ("held_out", each.held_out)):
            arrays[f"{each.unit}.{split}.offsets"] = activations.offsets
            arrays[f"{each.unit}.{split}.token_index"] = activations.token_index
            arrays[f"{each.unit}.{split}.value"] = activations.value
    save_file(arrays, path)


def load_units(path: Path) -> list[Units]:
    """Read what `save_units` wrote, in the order of `CONTROL_UNITS`; every unit is to be explained."""
    arrays = load_file(path)

    def activations(unit: str, split: str) -> SparseActivations:
        return SparseActivations(*(arrays[f"{unit}.{split}.{name}"] for name in ("offsets", "token_index", "value")))

    result = []
    for unit in CONTROL_UNITS:
        if f"{unit}.ids" in arrays:
            ids = arrays[f"{unit}.ids"]
            train, held_out = activations(unit, "train"), activations(unit, "held_out")
            result.append(Units(unit, ids, train, held_out, np.arange(len(ids)), arrays.get(f"{unit}.seen")))
    return result


def choose(units: Units, columns: Sequence[int]) -> Units:
    """Only these columns, every one to be explained."""
    chosen = np.asarray(columns, np.int64)
    train, held_out = (each.columns(chosen) for each in (units.train, units.held_out))
    return Units(units.unit, units.ids[chosen], train, held_out, np.arange(len(chosen)), units.seen)


def _sparse(
    reader: ActivationReader,
    unit: UnitKind,
    ids: np.ndarray,
    values_of: Callable[[torch.Tensor], torch.Tensor],
    n_active_C: np.ndarray,
) -> Units:
    train_token, train_CN = _dense(reader, "train", values_of)
    held_out_token, held_out_CN = _dense(reader, "held_out", values_of)
    if unit == "mlp_neuron":
        centred = train_CN - train_CN.mean(axis=1, keepdims=True)
        sign = np.where((centred**3).mean(axis=1) < 0, -1, 1).astype(np.float32)[:, None]
        train_CN, held_out_CN = sign * train_CN, sign * held_out_CN
    threshold_C = np.array([np.partition(row, -n - 1)[-n - 1] for row, n in zip(train_CN, n_active_C, strict=True)])
    train, held_out = _above(train_CN, train_token, threshold_C), _above(held_out_CN, held_out_token, threshold_C)
    return Units(unit, ids, train, held_out, np.arange(len(ids)))


def _dense(
    reader: ActivationReader, split: str, values_of: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """(token index N, values C x N): a few dozen units, so this is far below the size of the activations."""
    token_index = reader.token_index(split)
    values = torch.cat([values_of(batch) for batch in token_index.split(BATCH_TOKENS)])
    return token_index.numpy(), values.T.contiguous().numpy()


def _above(values_CN: np.ndarray, token: np.ndarray, threshold_C: np.ndarray) -> SparseActivations:
    over_CN = values_CN - threshold_C[:, None]
    unit, column = np.nonzero(over_CN > 0)
    return SparseActivations.from_arrays(unit, token[column], over_CN[unit, column], len(values_CN))
