"""Shards whose activations are computed when somebody looks at them, and forgotten again: `activations.source: streaming`.

On disk lie the small arrays (token ids, documents, norms); residual and neurons come from another truncated forward pass, with
the bits that a stored shard would hold. Reading in order computes every shard once; reading at random would compute them over and
over, so training goes through a ring.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.activations.batch_size import blocks_on_cpu
from sae_pipeline.activations.shards import forward_blocks
from sae_pipeline.device import device_in_use, halving
from sae_pipeline.interrupt import stop_if_asked
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.study_inputs import Hook, parse_model

COMPUTED = ("activations_BTD", "neurons_BTM")
N_KEPT = 2  # computed shards in memory


class ComputedShards:
    """A sequence of shards, each a mapping as `load_file` gives it."""

    def __init__(self, stored: list[dict[str, Tensor]], facts: dict[str, Any], lm: LanguageModel | None = None) -> None:
        self._stored, self._facts, self._lm = stored, facts, lm
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._batch: int | None = None

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> "Iterator[ComputedShard]":
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> "ComputedShard":
        return ComputedShard(self, i)

    def get(self, i: int, name: str) -> Tensor:
        """One tensor of one shard."""
        if name not in COMPUTED:
            return self._stored[i][name]
        if i not in self._kept:
            while len(self._kept) >= N_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[i] = self._compute(self._stored[i]["token_ids_BT"])
        return self._kept[i][name]

    def _compute(self, ids_BT: Tensor) -> dict[str, Tensor]:
        facts = self._facts
        self._lm = lm = self._lm or _model(json.dumps(facts["model"]), json.dumps(facts["hook"]), device_in_use())
        dtype = getattr(torch, facts["dtype"])

        def compute(batch: int) -> tuple[int, tuple[Tensor, Tensor, Tensor]]:
            return batch, forward_blocks(lm, ids_BT, facts["neuron_ids"], dtype, batch, lambda _: stop_if_asked())

        # The harvest's, as long as memory holds it: other sizes, other bits.
        batch = self._batch or facts.get("blocks_per_forward", blocks_on_cpu(facts["context"]))
        self._batch, (r_BTD, n_BTM, _) = halving(batch, compute)
        return dict(zip(COMPUTED, (r_BTD, n_BTM), strict=True))


class ComputedShard:
    """One shard of `ComputedShards`."""

    def __init__(self, shards: ComputedShards, i: int) -> None:
        self._shards, self._i = shards, i

    def __getitem__(self, name: str) -> Tensor:
        return self._shards.get(self._i, name)


@lru_cache(maxsize=1)
def _model(model: str, hook: str, device: str) -> LanguageModel:
    return load_language_model(parse_model(json.loads(model)), Hook(**json.loads(hook)), device)
