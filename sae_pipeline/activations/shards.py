"""Harvest: the truncated forward over every block, written shard by shard. A shard that is there is complete.

Shapes: B blocks, T positions, D model width, M neurons kept.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae_pipeline.activations.batch_size import BatchSize, batch_size, speed_on_gpu
from sae_pipeline.activations.shard_file import write_shard
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.device import halving
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar

SHARD_TOKENS = 32_768  # what a killed harvest may lose; about 45 MB at width 576


@dataclass(frozen=True)
class ShardPlan:
    """Which blocks one shard holds, and what identifies its content."""

    path: Path
    first_block: int
    n_blocks: int
    tokens_digest: str

    @property
    def metadata(self) -> dict[str, str]:
        """The safetensors header of the finished shard: one key, because safetensors writes several in random order."""
        facts = {"first_block": self.first_block, "n_blocks": self.n_blocks, "tokens": self.tokens_digest}
        return {"shard": json.dumps(facts)}


def plan_shards(corpus: CorpusReader, folder: Path) -> list[ShardPlan]:
    """Contiguous blocks, about 32k tokens a shard."""
    per_shard = max(1, SHARD_TOKENS // corpus.context)
    plans = []
    for number, first in enumerate(range(0, corpus.n_blocks, per_shard)):
        ids_BT = corpus.token_ids_BT[first : first + per_shard]
        digest = hashlib.sha256(ids_BT.tobytes()).hexdigest()
        plans.append(ShardPlan(folder / f"{number:05d}.safetensors", first, len(ids_BT), digest))
    return plans


def is_complete(plan: ShardPlan, context: int, d_model: int, n_neurons: int, stored: bool = True) -> bool:
    """Whether the shard is there, readable, of full length and about these tokens. A broken one counts as missing.

    `stored` false: the shard is to hold no activations (`activations.source: streaming`).
    """
    try:
        with safe_open(plan.path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata()
    except (OSError, SafetensorError):
        return False
    if metadata != plan.metadata or shapes.get("norm_BT") != [plan.n_blocks, context]:
        return False
    if not stored:
        return "activations_BTD" not in shapes
    wanted = ([plan.n_blocks, context, d_model], [plan.n_blocks, context, n_neurons])
    return (shapes.get("activations_BTD"), shapes.get("neurons_BTM")) == wanted


def tuned_batch(
    corpus: CorpusReader, lm: LanguageModel, plans: list[ShardPlan], neuron_ids: list[int], dtype: torch.dtype, work: Path
) -> BatchSize:
    """Blocks of one forward pass of this harvest, measured on its first shard where that is done (`batch_size`)."""
    ids_BT = torch.from_numpy(corpus.token_ids_BT[: plans[0].n_blocks])
    speed = speed_on_gpu(
        lm.device, ids_BT.numel(), lambda n_blocks: forward_blocks(lm, ids_BT, neuron_ids, dtype, n_blocks, lambda _: None)
    )
    return batch_size(lm.device, corpus.context, len(ids_BT), work, speed)


def harvest(
    corpus: CorpusReader,
    lm: LanguageModel,
    plans: list[ShardPlan],
    neuron_ids: list[int],
    dtype: torch.dtype,
    batch: int,
    stored: bool = True,
) -> int:
    """Compute the shards that are missing, `batch` blocks a forward. `UserError` for non-finite activations.

    Returns the blocks of a forward that it ended with: fewer after running out of memory.

    While one shard is computed the one before it is written, by another thread; never more than one waits for the disk.
    `stored` false keeps the norms and lets the activations go.
    """
    missing = [plan for plan in plans if not is_complete(plan, corpus.context, lm.d_model, len(neuron_ids), stored)]
    total = corpus.n_blocks * corpus.context
    done = total - sum(plan.n_blocks for plan in missing) * corpus.context
    written: Future[None] | None = None
    with bar("harvest", total, "tokens", initial=done) as progress, ThreadPoolExecutor(1, "shard-writer") as writer:
        for plan in missing:

            def compute(n_blocks: int, plan: ShardPlan = plan, done: int = done) -> tuple[int, dict[str, Tensor]]:
                progress.n = done  # a second attempt after running out of memory starts the shard again
                return n_blocks, _compute(corpus, lm, plan, neuron_ids, dtype, n_blocks, progress.update)

            batch, tensors = halving(batch, compute)
            if not stored:
                tensors = {name: tensor for name, tensor in tensors.items() if name not in ("activations_BTD", "neurons_BTM")}
            done += plan.n_blocks * corpus.context
            if written is not None:
                written.result()
            written = writer.submit(write_shard, plan.path, tensors, plan.metadata)
        if written is not None:
            written.result()
    return batch


def _compute(
    corpus: CorpusReader,
    lm: LanguageModel,
    plan: ShardPlan,
    neuron_ids: list[int],
    dtype: torch.dtype,
    batch: int,
    advance: Callable[[int], object],
) -> dict[str, Tensor]:
    """The tensors of one shard, `batch` blocks a forward."""
    blocks = slice(plan.first_block, plan.first_block + plan.n_blocks)
    ids_BT = torch.from_numpy(corpus.token_ids_BT[blocks])
    r_BTD, n_BTM, norm_BT = forward_blocks(lm, ids_BT, neuron_ids, dtype, batch, advance)
    if not norm_BT.isfinite().all():
        block = plan.first_block + int((~norm_BT.isfinite()).any(1).nonzero()[0])
        raise UserError(
            "model.dtype", f"the model's activations are not finite in block {block} (computed in {lm.dtype})",
            "Set model.dtype: float32, or check the model's weights.",
        )  # fmt: skip
    return {
        "activations_BTD": r_BTD,
        "neurons_BTM": n_BTM,
        "norm_BT": norm_BT,
        "token_ids_BT": ids_BT,
        "doc_ids_BT": torch.from_numpy(corpus.doc_ids_BT[blocks]),
        "position_BT": torch.arange(corpus.context, dtype=torch.int16).expand(len(ids_BT), -1).contiguous(),
    }


def forward_blocks(
    lm: LanguageModel, ids_BT: Tensor, neuron_ids: list[int], dtype: torch.dtype, batch: int, advance: Callable[[int], object]
) -> tuple[Tensor, Tensor, Tensor]:
    """(r_BTD, neurons_BTM, float32 norm_BT) of these blocks, `batch` blocks a forward; `advance` hears of every token done."""
    columns_M = torch.tensor(neuron_ids, dtype=torch.int64)
    residuals, neurons, norms = [], [], []
    for part_BT in ids_BT.split(batch):
        if neuron_ids:
            r_BTD, n_BTM = lm.residual(part_BT, neurons=columns_M)
        else:
            r_BTD = lm.residual(part_BT)
            n_BTM = r_BTD[..., :0]
        residuals.append(r_BTD.to("cpu", dtype))
        neurons.append(n_BTM.to("cpu", dtype))
        norms.append(r_BTD.float().norm(dim=-1).cpu())
        advance(part_BT.numel())
    return torch.cat(residuals), torch.cat(neurons).contiguous(), torch.cat(norms)
