"""Windows of tokens around chosen activations, with the feature's activation on every token of the window.

Shapes: E examples, W = 2 x radius + 1 places of a window before it is cut at the ends of its block, Z activations.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sae_pipeline.features.sparse import SparseActivations


@dataclass(frozen=True)
class Windows:
    """Ragged windows: window e owns the run offsets[e]:offsets[e+1] of the flat arrays. `center_E`: its place of the token."""

    offsets: np.ndarray
    token_index: np.ndarray
    activation: np.ndarray
    center_E: np.ndarray

    def lists(self, values: np.ndarray | pa.Array) -> pa.ListArray:
        """Flat values as one Arrow list per window."""
        flat = values if isinstance(values, pa.Array) else pa.array(values)
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), flat)


def windows_around(sparse: SparseActivations, row_E: np.ndarray, radius: int, context: int) -> Windows:
    """Windows of up to `radius` tokens on each side of the activations at `row_E` (rows of `sparse`), within their block.

    A unit's rows are sorted by token, so an activation inside the window lies at most `radius` rows away: no search is needed.
    """
    unit_Z, token_Z = sparse.unit_Z, sparse.token_index
    center_token_E = token_Z[row_E]
    offset_W = np.arange(-radius, radius + 1)
    activation_EW = np.zeros((len(row_E), len(offset_W)), np.float32)
    for step in offset_W:
        neighbour_E = row_E + step
        inside = (neighbour_E >= 0) & (neighbour_E < len(token_Z))
        neighbour_E = np.where(inside, neighbour_E, row_E)
        distance_E = token_Z[neighbour_E] - center_token_E
        inside &= (unit_Z[neighbour_E] == unit_Z[row_E]) & (np.abs(distance_E) <= radius)
        example = np.flatnonzero(inside)
        activation_EW[example, distance_E[example] + radius] = sparse.value[neighbour_E[example]]
    position_EW = (center_token_E % context)[:, None] + offset_W
    kept_EW = (position_EW >= 0) & (position_EW < context)
    lengths_E = kept_EW.sum(1)
    return Windows(
        offsets=np.concatenate([[0], np.cumsum(lengths_E)]),
        token_index=(center_token_E[:, None] + offset_W)[kept_EW],
        activation=activation_EW[kept_EW],
        center_E=kept_EW[:, :radius].sum(1),
    )
