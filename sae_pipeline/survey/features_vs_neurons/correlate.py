"""The best-correlated neuron, and residual dimension, of a sample of features and of random directions.

Paper, 'Features vs. neurons': Pearson correlation of a feature with every MLP neuron of the layers up to the hook. Two halves of
the text, train and held-out documents, are kept apart, so that the neuron found on one can be looked at on the other.

Shapes: B blocks, T positions, N tokens, F units that are correlated (features, then random directions), C random directions,
P active (token, unit) pairs, M neurons of all blocks up to the hook, D width.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sae_pipeline.activations.reader import KEEP, ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.correlations import Correlations
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.interventions import random_directions
from sae_pipeline.survey.features_vs_neurons.largest import Largest
from sae_pipeline.tables.columns import SPLITS
from sae_pipeline.tables.schemas import conform

ENCODED_AT_ONCE, BLOCK_TOKENS = 4096, 1024


@dataclass(frozen=True)
class Pairs:
    """Active pairs of a half, ascending by row; a row is a token of `token_N`."""

    token_N: Tensor
    row_P: Tensor
    unit_P: Tensor
    value_P: Tensor


def some_blocks(reader: ActivationReader, split: str, n_tokens: int, seed: int) -> Tensor:
    """Blocks of a split, shard by shard in random order until they hold `n_tokens` unmasked tokens, ascending."""
    parts = [part for part in reader.by_shard(reader.token_index(split)) if len(part)]
    taken, left = [], n_tokens
    for i in torch.randperm(len(parts), generator=torch.Generator().manual_seed(seed)).tolist():
        block_B, count_B = torch.unique(parts[i] // reader.context, return_counts=True)
        taken.append(block_B[count_B.cumsum(0) - count_B < left])
        left -= len(parts[i])
        if left <= 0:
            break
    return torch.cat(taken).sort().values


def active_pairs(
    reader: ActivationReader,
    sae: SparseAutoencoder,
    blocks: dict[str, Tensor],
    features: np.ndarray,
    n_directions: int,
    seed: int,
) -> dict[str, Pairs]:
    """Pairs of the features and of as many random directions, each with the threshold that gives it the density of one of the
    features over both halves."""
    column_F = torch.full((sae.n_features,), -1)
    column_F[torch.from_numpy(features)] = torch.arange(len(features))
    tokens = {}
    for split, block_B in blocks.items():
        keep_BT = reader.reason_BT[block_B] == KEEP
        tokens[split] = (block_B[:, None] * reader.context + torch.arange(reader.context))[keep_BT]
    found = {split: _of_features(reader, sae, column_F, token_N) for split, token_N in tokens.items()}
    active = torch.bincount(torch.cat([found[split][1] for split in blocks]), minlength=len(features))
    usable = active[active > 0]
    matched_C = usable[torch.from_numpy(np.random.default_rng(seed).integers(0, len(usable), n_directions))]
    beside = _of_directions(reader, tokens, matched_C.numpy(), seed)
    return {split: _together(tokens[split], found[split], beside[split], len(features)) for split in blocks}


Found = tuple[Tensor, Tensor, Tensor]


def _of_features(reader: ActivationReader, sae: SparseAutoencoder, column_F: Tensor, token_N: Tensor) -> Found:
    """(row, column, activation) of the features whose `column_F` is not negative."""
    rows, columns, values = [], [], []
    for part, part_N in enumerate(token_N.split(ENCODED_AT_ONCE)):
        codes = sae.encode_sparse(reader.gather(part_N))
        column_P = column_F[codes.feature.long().cpu()]
        mine_P = column_P >= 0
        rows.append(codes.token.cpu()[mine_P] + part * ENCODED_AT_ONCE)
        columns.append(column_P[mine_P])
        values.append(codes.value.cpu()[mine_P])
    return torch.cat(rows), torch.cat(columns), torch.cat(values)


def _of_directions(
    reader: ActivationReader, tokens: dict[str, Tensor], n_active_C: np.ndarray, seed: int
) -> dict[str, Found]:  # fmt: skip
    """The same of random directions, each above the threshold that leaves it `n_active_C` pairs in all splits together."""
    directions_CD = random_directions(len(n_active_C), reader.d_model, torch.Generator().manual_seed(seed))
    largest, first, begins = Largest(n_active_C), 0, {}
    for split, token_N in tokens.items():
        begins[split] = first
        for part_N in token_N.split(ENCODED_AT_ONCE):
            projected_NC = reader.scaled(reader.gather(part_N)) @ directions_CD.T
            largest.add(projected_NC, torch.arange(first, first + len(part_N)))
            first += len(part_N)
    largest.finish()
    row_P, column_P, value_P = largest.above()
    cut = {split: (row_P >= begin) & (row_P < begin + len(tokens[split])) for split, begin in begins.items()}
    return {split: (row_P[here] - begins[split], column_P[here], value_P[here]) for split, here in cut.items()}


def _together(token_N: Tensor, features: Found, directions: Found, n_features: int) -> Pairs:
    row_P = torch.cat([features[0], directions[0]])
    order_P = torch.sort(row_P, stable=True).indices
    unit_P = torch.cat([features[1], directions[1] + n_features])[order_P]
    return Pairs(token_N, row_P[order_P], unit_P, torch.cat([features[2], directions[2]])[order_P])


@dataclass(frozen=True)
class Half:
    """Correlations of the tokens of one half."""

    neurons: Correlations
    dimensions: Correlations


def correlate(
    corpus: CorpusReader, reader: ActivationReader, lm: LanguageModel, pairs: dict[str, Pairs], n_units: int
) -> tuple[dict[str, Half], list[int]]:
    """(sums of each half, neurons of every block). One pass of the model over the tokens; residual dimensions are scaled."""
    halves: dict[str, Half] = {}
    widths: list[int] = []
    n_tokens = sum(len(half.token_N) for half in pairs.values())
    with bar("features and neurons", n_tokens, "tokens") as progress:
        for split, half in pairs.items():
            block_N = half.token_N // reader.context
            for block_B in block_N.unique().split(max(1, BLOCK_TOKENS // reader.context)):
                first, last = torch.searchsorted(block_N, torch.stack([block_B[0], block_B[-1] + 1])).tolist()
                token_N = half.token_N[first:last]
                neurons = lm.neurons_up_to_hook(torch.from_numpy(corpus.token_ids_BT[block_B.numpy()]))
                widths = [each.shape[-1] for each in neurons]
                place_N = torch.searchsorted(block_B, token_N // reader.context) * reader.context + token_N % reader.context
                place_N = place_N.to(neurons[0].device)
                units_NM = torch.cat([each.flatten(0, 1)[place_N] for each in neurons], dim=1).float()
                x_ND = reader.scaled(reader.gather(token_N)).to(units_NM.device)
                if not halves:
                    shifts = units_NM.mean(0), x_ND.mean(0)
                if split not in halves:
                    halves[split] = Half(*(Correlations.empty(n_units, shift) for shift in shifts))
                low, high = torch.searchsorted(half.row_P, torch.tensor([first, last])).tolist()
                here = (half.unit_P[low:high], half.row_P[low:high] - first, half.value_P[low:high])
                unit_P, row_P, value_P = (each.to(units_NM.device) for each in here)
                halves[split].neurons.add(unit_P, row_P, value_P, units_NM)
                halves[split].dimensions.add(unit_P, row_P, value_P, x_ND)
                progress.update(last - first)
    return halves, widths


def correlation_rows(halves: dict[str, Half], widths: list[int], features: np.ndarray, size: int) -> pl.DataFrame:
    """Table `neuron_correlations`: one row per feature and random direction, those that are never active left out."""
    train, held_out = (halves[split] for split in SPLITS)
    neurons, dimensions = train.neurons.merge(held_out.neurons), train.dimensions.merge(held_out.dimensions)
    unit_F, r_F = (each[:, 0].cpu().numpy() for each in neurons.best())
    dimension_F, r_dimension_F = (each[:, 0].cpu().numpy() for each in dimensions.best())
    train_unit_F, r_train_F = (each[:, 0] for each in train.neurons.best())
    first_L = np.cumsum([0, *widths])
    layer_F = np.searchsorted(first_L, unit_F, side="right") - 1
    n_directions = len(unit_F) - len(features)
    is_feature = np.arange(len(unit_F)) < len(features)
    unit_id = np.concatenate([features, np.arange(n_directions)])
    rows = pl.DataFrame({
        "size": np.full(len(unit_F), size), "unit": np.where(is_feature, "sae_feature", "random_direction"), "unit_id": unit_id,
        "feature": pl.Series(unit_id).to_frame().select(pl.when(pl.Series(is_feature)).then(pl.first())).to_series(),
        "layer": layer_F, "neuron": unit_F - first_L[layer_F], "r": r_F, "r_train": r_train_F.cpu().numpy(),
        "r_held_out": held_out.neurons.of(train_unit_F).cpu().numpy(), "dimension": dimension_F, "r_dimension": r_dimension_F,
        "n_tokens": np.full(len(unit_F), neurons.n_tokens),
    })  # fmt: skip
    return conform("neuron_correlations", rows.filter(pl.Series((neurons.f_F > 0).cpu().numpy())))
