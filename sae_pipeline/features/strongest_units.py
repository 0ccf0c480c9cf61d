"""The dense unit that a feature follows most, found in the statistics pass itself: a residual dimension, a stored neuron.

The pass has the residual stream at the hook, and of the MLP the neurons that the harvest stored (`activations.n_neurons` of the
hook's block; a streamed harvest computes the same ones). Other neurons cannot come in this pass: they exist only while the model
runs, and all of those up to a hook are some forty times the residual (the demo: 23,040 a token beside 576). `features_vs_neurons`
runs the model for them, on a sample of tokens and features, with the same `Correlations`.

The unit is chosen on training tokens; held-out tokens say what the choice is worth. Shapes: N tokens of a batch, D width,
M neurons stored, F features, Z active (feature, token) pairs.
"""

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sae_pipeline.features.correlations import Correlations
from sae_pipeline.tables.columns import DENSE_UNITS
from sae_pipeline.tables.schemas import conform


class StrongestUnits:
    """Correlations of all features with all dense units of the pass, and the strongest of each kind.

    Memory: 8 F (D + M) bytes, of one split at a time. Fill with `add`, end each split with `close`, train first. Where a pass is
    divided, every part adds its tokens of a split, and the one that takes the others' sums by `merge` closes it.

    `shift_M`: about the mean of every unit, residual dimensions before neurons; all parts of a pass need the same one. Without
    it, the mean of the first batch.
    """

    def __init__(self, n_features: int, d_model: int, neuron_ids: list[int], shift_M: Tensor | None = None) -> None:
        self._n_features = n_features
        ids = {"residual_dimension": np.arange(d_model), "mlp_neuron": np.array(neuron_ids, np.int64)}
        edges = np.cumsum([0, *(len(ids[kind]) for kind in DENSE_UNITS)]).tolist()
        self._columns = {kind: slice(*edges[i : i + 2]) for i, kind in enumerate(DENSE_UNITS) if len(ids[kind])}
        self._id_M = np.concatenate([ids[kind] for kind in DENSE_UNITS])
        self.shift_M = shift_M
        self._sums: Correlations | None = None
        self._chosen: dict[str, Tensor] = {}
        self._rows: list[pl.DataFrame] = []

    def add(self, offsets_N1: Tensor, feature_Z: Tensor, value_Z: Tensor, r_ND: Tensor, neurons_NM: Tensor) -> None:
        """Count N tokens: raw activations, and their active features as `encode_sparse` gives them (sorted by token).

        Correlations are those of the scaled space, too: scaling and shifting a unit changes none.
        """
        units_NM = torch.cat([r_ND.to(value_Z.device).float(), neurons_NM.to(value_Z.device).float()], dim=1)
        if self.shift_M is None:
            self.shift_M = units_NM.mean(0)
        if self._sums is None:
            self._sums = Correlations.empty(self._n_features, self.shift_M.to(units_NM.device))
        row_N = torch.arange(len(units_NM), device=value_Z.device)
        self._sums.add(feature_Z, row_N.repeat_interleave(offsets_N1.diff()), value_Z, units_NM)

    def merge(self, other: "StrongestUnits") -> None:
        """Take over what `other` counted of the split that both are at; it begins its next split.

        `ValueError` when they were shifted differently.
        """
        if other._sums is None:
            return
        if self.shift_M is None:
            self.shift_M = other._sums.shift_M
        mine = self._sums or Correlations.empty(self._n_features, self.shift_M.to(other._sums.shift_M.device))
        self._sums, other._sums = mine.merge(other._sums), None

    def close(self, split: str) -> None:
        """All tokens of `split` were added."""
        sums, self._sums = self._sums, None
        if sums is None:
            return
        for kind, columns in self._columns.items():
            if split == "train":
                self._chosen[kind] = sums.best(units=columns)[0][:, 0]
            if kind in self._chosen:
                r_F = sums.of(self._chosen[kind]).cpu().numpy()
                active_F = (sums.f_F > 0).cpu().numpy()
                self._rows.append(
                    pl.DataFrame({
                        "feature": np.arange(self._n_features), "unit": kind, "split": split,
                        "unit_id": self._id_M[self._chosen[kind].cpu().numpy()], "r": r_F,
                    }).filter(active_F)
                )  # fmt: skip

    def table(self, size: int) -> pl.DataFrame:
        """Table `feature_correlations`: a row per feature that is active in training, and kind of unit."""
        columns = {"feature": pl.Int64, "unit": pl.String, "split": pl.String, "unit_id": pl.Int64, "r": pl.Float64}
        rows = pl.concat([pl.DataFrame(schema=columns), *self._rows])
        train, held_out = (rows.filter(split=split).drop("split") for split in ("train", "held_out"))
        both = train.join(held_out.rename({"r": "r_held_out"}), on=["feature", "unit", "unit_id"], how="left")
        return conform("feature_correlations", both.sort("feature", "unit").with_columns(pl.lit(size).alias("size")))
