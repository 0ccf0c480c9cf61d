"""Read a published activations artefact, memory-mapped. Raw activation r, scaled x = s (r - mu).

Shapes: B blocks, T positions, N tokens, D model width, M neurons kept. A token is named by its index: block * T + position.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from sae_pipeline.activations.computed import ComputedShards
    from sae_pipeline.language_model.model import LanguageModel

KEEP = 0
REASONS = ("keep", "position_0", "special", "padding", "massive")  # by the value in `reason_BT`


@dataclass(frozen=True)
class ActivationReader:
    """Activations, mask and statistics of one harvest. Tensors are CPU tensors backed by the shard files."""

    folder: Path
    facts: dict[str, Any]  # statistics.json
    shards: "Sequence[Mapping[str, Tensor]] | ComputedShards"  # tensors of each shard, in block order
    reason_BT: Tensor  # uint8, index into REASONS
    held_out_B: Tensor  # bool
    raw_mean_D: Tensor  # float32: training mean of unmasked tokens
    std_D: Tensor  # float32

    @classmethod
    def open(cls, folder: Path | str, lm: "LanguageModel | None" = None) -> "ActivationReader":
        """Open the `activations/` artefact at `folder`. `lm`: the model, for streamed activations, when it is loaded already."""
        folder = Path(folder)
        facts = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
        shards: Any = [load_file(path) for path in sorted((folder / "shards").glob("*.safetensors"))]
        if facts.get("source") == "streaming":
            from sae_pipeline.activations.computed import ComputedShards  # brings the language model along

            shards = ComputedShards(shards, facts, lm)
        mask = load_file(folder / "mask.safetensors")
        statistics = load_file(folder / "statistics.safetensors")
        return cls(
            folder=folder,
            facts=facts,
            shards=shards,
            reason_BT=mask["reason_BT"],
            held_out_B=mask["held_out_B"].bool(),
            raw_mean_D=statistics["mean_D"].float(),
            std_D=statistics["std_D"].float(),
        )

    # --- facts

    @property
    def context(self) -> int:
        """Tokens per block."""
        return self.reason_BT.shape[1]

    @property
    def n_blocks(self) -> int:
        """Number of blocks, train and held out."""
        return self.reason_BT.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the activation."""
        return self.facts["d_model"]

    @property
    def neuron_ids(self) -> list[int]:
        """Which entries of down_proj's input the neuron columns are."""
        return self.facts["neuron_ids"]

    @property
    def n_neurons(self) -> int:
        """Number of neuron columns."""
        return len(self.neuron_ids)

    @property
    def is_streamed(self) -> bool:
        """Whether activations are computed when they are asked for, instead of stored."""
        return self.facts.get("source") == "streaming"

    @cached_property
    def document_of_token(self) -> Tensor:
        """Document id by token index."""
        return torch.cat([shard["doc_ids_BT"].flatten() for shard in self.shards])

    @property
    def scale(self) -> float:
        """s, such that E|x|^2 = D over unmasked training tokens."""
        return self.facts["scale"]

    @property
    def centered(self) -> bool:
        """Whether x is centred (mu = training mean) or not (mu = 0)."""
        return self.facts["centered"]

    @property
    def threshold_norm(self) -> float:
        """Raw norm above which a token counts as a massive activation."""
        return self.facts["threshold_norm"]

    @cached_property
    def mean_D(self) -> Tensor:
        """mu of the scaling, float32; zeros when not centred."""
        return self.raw_mean_D if self.centered else torch.zeros_like(self.raw_mean_D)

    def scaled(self, r_ND: Tensor) -> Tensor:
        """x = s (r - mu), float32, on r's device."""
        return (r_ND.float() - self.mean_D.to(r_ND.device)) * self.scale

    # --- tokens

    def token_index(self, split: str, masked: bool = False) -> Tensor:
        """Token indices (int64, ascending) of `train` or `held_out`; without masked tokens unless `masked`."""
        if split not in ("train", "held_out"):
            raise ValueError(f"split is 'train' or 'held_out', not {split!r}")
        chosen_BT = (self.held_out_B == (split == "held_out"))[:, None].expand(-1, self.context)
        if not masked:
            chosen_BT = chosen_BT & (self.reason_BT == KEEP)
        return chosen_BT.flatten().nonzero().squeeze(1)

    def by_shard(self, token_index_N: Tensor) -> list[Tensor]:
        """Ascending token indices, cut where shards begin."""
        cuts = np.searchsorted(token_index_N.numpy(), self._first_token[1:])
        return list(token_index_N.tensor_split(torch.from_numpy(cuts)))

    def gather(self, token_index_N: Tensor) -> Tensor:
        """Raw activations r_ND of any tokens, in the stored dtype and the order asked for."""
        return self._gather("activations_BTD", token_index_N)

    def gather_neurons(self, token_index_N: Tensor) -> Tensor:
        """Neuron activations of any tokens, N x M, stored dtype."""
        return self._gather("neurons_BTM", token_index_N)

    def stream(self, split: str, batch_tokens: int, neurons: bool = False) -> Iterator[tuple[Tensor, ...]]:
        """(token_index_N, r_ND[, neurons_NM]) over the unmasked tokens of a split, in order, `batch_tokens` at a time."""
        for index_N in self.token_index(split).split(batch_tokens):
            yield (index_N, self.gather(index_N), self.gather_neurons(index_N)) if neurons else (index_N, self.gather(index_N))

    def _gather(self, name: str, token_index_N: Tensor) -> Tensor:
        index_N = token_index_N.to("cpu", torch.int64)
        if not len(index_N):
            first = self.shards[0][name]
            return torch.empty(0, first.shape[-1], dtype=first.dtype)
        lowest, highest = (int(shard) for shard in self._shard_of(index_N.aminmax()))
        if lowest == highest:
            return self._rows(lowest, name, index_N)
        # Width and dtype of a shard that is asked for: looking at another one would compute it, where activations are streamed.
        first = self.shards[lowest][name]
        out = torch.empty(len(index_N), first.shape[-1], dtype=first.dtype)
        shard_N = torch.from_numpy(self._shard_of(index_N))
        for shard in shard_N.unique().tolist():
            rows = (shard_N == shard).nonzero().squeeze(1)
            out.index_copy_(0, rows, self._rows(shard, name, index_N[rows]))
        return out

    def _rows(self, shard: int, name: str, token_index_N: Tensor) -> Tensor:
        """Copies of rows of one shard; neighbours in one piece."""
        flat = self.shards[shard][name].flatten(0, 1)
        local_N = token_index_N - int(self._first_token[shard])
        if bool((local_N[1:] - local_N[:-1] == 1).all()):
            return flat[local_N[0] : local_N[-1] + 1].clone()
        return flat.index_select(0, local_N)

    def _shard_of(self, token_index: Any) -> np.ndarray:
        return np.searchsorted(self._first_token, np.asarray(token_index), side="right") - 1

    @cached_property
    def _first_token(self) -> np.ndarray:
        blocks = [shard["norm_BT"].shape[0] for shard in self.shards]
        return np.cumsum([0, *blocks[:-1]]) * self.context
