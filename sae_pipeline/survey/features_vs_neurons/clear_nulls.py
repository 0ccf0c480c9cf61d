"""Row 18's null: random directions and neurons that go through the choice of the four clear features.

As many random directions as there were candidates, and every stored neuron (as many as candidates, at most): each as dense as one
of the candidates, explained by the same explainer, and the clearest four of each kind looked at in the same way.

A direction or neuron becomes a sparse unit as in `interpret/units.py`, but a part of the tokens at a time: hundreds of dense
columns over all tokens would be a gigabyte. Shapes: N tokens of a part, C units.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.protocols import Explanation, UnitKind
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.token_stats import TokenStats
from sae_pipeline.interpret.units import Units
from sae_pipeline.steering.interventions import random_directions
from sae_pipeline.survey.features_vs_neurons.largest import Largest

BATCH_TOKENS = 8192


def null_units(reader: ActivationReader, n_active_C: np.ndarray, seed: int) -> Iterator[Units]:
    """Random directions, one per entry of `n_active_C` (train activations), and as many of the stored neurons as there are."""
    directions_CD = random_directions(len(n_active_C), reader.d_model, torch.Generator().manual_seed(seed))
    yield streamed_units(
        reader, "random_direction", np.arange(len(n_active_C)),
        lambda token_N: reader.scaled(reader.gather(token_N)) @ directions_CD.T, n_active_C,
    )  # fmt: skip
    n = min(reader.n_neurons, len(n_active_C))
    if not n:
        return
    column_C = np.sort(np.random.default_rng(seed).choice(reader.n_neurons, n, replace=False))
    at_C = torch.from_numpy(column_C)
    sign_C = _selective_side(reader, lambda token_N: reader.gather_neurons(token_N)[:, at_C].float(), n)
    yield streamed_units(
        reader, "mlp_neuron", np.asarray(reader.neuron_ids)[column_C],
        lambda token_N: reader.gather_neurons(token_N)[:, at_C].float() * sign_C, n_active_C[:n],
    )  # fmt: skip


def streamed_units(
    reader: ActivationReader, unit: UnitKind, ids: np.ndarray, values_of: Callable[[Tensor], Tensor], n_active_C: np.ndarray
) -> Units:
    """Units whose values are `values_of` some tokens (N x C): active above what leaves unit c `n_active_C[c]` train tokens."""
    largest = Largest(n_active_C)
    for token_N in reader.token_index("train").split(BATCH_TOKENS):
        largest.add(values_of(token_N), token_N)
    threshold_C = largest.finish()
    token_P, unit_P, over_P = largest.above()
    train = SparseActivations.from_arrays(unit_P.numpy(), token_P.numpy(), over_P.numpy(), len(ids))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for token_N in reader.token_index("held_out").split(BATCH_TOKENS):
        over_NC = values_of(token_N) - threshold_C
        at, column = (over_NC > 0).nonzero(as_tuple=True)
        found.append((column, token_N[at], over_NC[at, column]))
    column_P, token_P, over_P = (torch.cat(each).numpy() for each in zip(*found, strict=True))
    held_out = SparseActivations.from_arrays(column_P, token_P, over_P, len(ids))
    return Units(unit, ids, train, held_out, np.arange(len(ids)))


def _selective_side(reader: ActivationReader, values_of: Callable[[Tensor], Tensor], n_units: int) -> Tensor:
    """1 or -1: the side to which a unit's train activations are skewed. From sums of powers, part by part."""
    total, sums_3C = 0, torch.zeros(3, n_units, dtype=torch.float64)
    for token_N in reader.token_index("train").split(BATCH_TOKENS):
        value_NC = values_of(token_N).double()
        sums_3C += torch.stack([(value_NC**power).sum(0) for power in (1, 2, 3)])
        total += len(token_N)
    first_C, second_C, third_C = sums_3C / max(total, 1)
    return torch.where(third_C - 3 * first_C * second_C + 2 * first_C**3 < 0, -1.0, 1.0).float()


def explained(index: RuleIndex, units: Units) -> dict[int, Explanation]:
    """{column: explanation} of the token statistics, as in the main run."""
    explanations = TokenStats(index, units, {}).explain(units.ids.tolist())
    return dict(enumerate(explanations))
