"""The exact neighbour search of the survey on a large SAE, beside a bar of its own: no peer does it.

A step is a whole search, of every feature among all: its time is the wall time of as many threads as it is given.
Shapes: F features, D width.
"""

from typing import Any

import numpy as np
from torch import Tensor

from bench.setting import Spec, initial_decoder
from sae_pipeline.survey.neighbours import nearest_features

N_NEIGHBOURS = 15


class NeighbourSearch:
    """The 15 nearest of every row."""

    def __init__(self, spec: Spec, x_ND: np.ndarray) -> None:
        self._rows_FD = initial_decoder(spec.shape, spec.seed)
        self.config: dict[str, Any] = {"n_neighbours": N_NEIGHBOURS, "numpy": np.__version__}

    def step(self, x_ND: Tensor) -> None:
        """One search; what it finds is dropped block by block."""
        for _ in nearest_features(self._rows_FD, self._rows_FD, N_NEIGHBOURS, same=True):
            pass

    def mse(self, x_ND: Tensor) -> float:
        """Not an error but the sum of the first block's cosines."""
        return float(next(nearest_features(self._rows_FD, self._rows_FD, N_NEIGHBOURS, same=True))[2].sum())


NEIGHBOURS = {"our neighbour search": NeighbourSearch}
