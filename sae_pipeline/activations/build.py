"""Build the activations artefact: shards, token mask, statistics, splice baselines.

A harvest that was killed goes on with the first shard that is missing. Shapes: B blocks, T positions, D width.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_pipeline.activations.batch_size import BatchSize, used_by_harvest
from sae_pipeline.activations.computed import ComputedShards
from sae_pipeline.activations.mask import token_mask
from sae_pipeline.activations.reader import KEEP, REASONS, ActivationReader
from sae_pipeline.activations.shard_bytes import expected_shard_bytes
from sae_pipeline.activations.shards import ShardPlan, harvest, is_complete, plan_shards, tuned_batch
from sae_pipeline.activations.splice import splice_baselines
from sae_pipeline.activations.statistics import Moments
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import track
from sae_pipeline.store import Outcome
from sae_pipeline.study import Activations, Metrics, Model


def build_activations(
    corpus_folder: Path, lm: LanguageModel, activations: Activations, metrics: Metrics, work: Path, model: Model | None = None
) -> Outcome:
    """Harvest the corpus at the model's hook into `work`. Raises `UserError` (disk, non-finite, masked fraction).

    With `activations.source: streaming` no activation is stored; `model`, what `lm` was loaded from, is then written down, so
    that readers can compute them again.
    """
    stored = activations.source == "cached"
    corpus = CorpusReader.open(corpus_folder)
    neuron_ids = choose_neurons(lm, activations.n_neurons, activations.seed)
    plans = plan_shards(corpus, work / "shards")
    for leftover in (work / "shards").glob("*.partial"):
        leftover.unlink()  # what a killed harvest was writing
    _require_disk(plans, corpus, lm, activations, neuron_ids, work)
    dtype = getattr(torch, activations.dtype)
    batch = tuned_batch(corpus, lm, plans, neuron_ids, dtype, work)
    batch = used_by_harvest(batch, harvest(corpus, lm, plans, neuron_ids, dtype, batch.n_blocks, stored), work)

    streaming = {}
    if not stored and model is not None:
        streaming = {
            "source": "streaming", "model": model.model_dump(mode="json"), "blocks_per_forward": batch.n_blocks
        }  # fmt: skip
    facts = {
        "neuron_ids": neuron_ids,
        "d_model": lm.d_model,
        "context": corpus.context,
        "dtype": activations.dtype,
        "hook": lm.hook.model_dump(mode="json"),
        **streaming,
    }
    on_disk = [load_file(plan.path) for plan in plans]
    shards = ComputedShards(on_disk, facts, lm) if streaming else on_disk
    held_out_B = torch.from_numpy(corpus.held_out_B)
    ids_BT, norm_BT = (torch.cat([shard[name] for shard in shards]) for name in ("token_ids_BT", "norm_BT"))
    reason_BT, threshold, median = token_mask(ids_BT, norm_BT, held_out_B, lm.special_ids, activations.mask_norm_above_median)
    fractions = masked_fraction(reason_BT, held_out_B)
    _require_few_masked(fractions, activations.max_masked_fraction)

    moments = moments_of(shards, (reason_BT == KEEP) & ~held_out_B[:, None])
    facts = {
        "scale": moments.scale(activations.center),
        "centered": activations.center,
        "center": moments.mean_share,
        "mean_square_norm": moments.mean_square_norm,
        "median_norm": median,
        "threshold_norm": threshold,
        "n_tokens": {
            split: dict(fractions.filter(pl.col("split") == split).select("reason", "n_tokens").iter_rows())
            for split in ("train", "held_out")
        },
        **facts,
    }
    save_file({"reason_BT": reason_BT, "held_out_B": held_out_B.to(torch.uint8)}, work / "mask.safetensors")
    save_file({"mean_D": moments.mean_D, "std_D": moments.std_D}, work / "statistics.safetensors")
    (work / "statistics.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    fractions.write_parquet(work / "masked_fraction.parquet")

    baselines = splice_baselines(corpus, lm, ActivationReader.open(work, lm), metrics.splice_tokens, metrics.seed)
    baselines.write_parquet(work / "splice_baselines.parquet")
    return Outcome(metadata=_metadata(facts, fractions, baselines, norm_BT, reason_BT, lm, batch))


def choose_neurons(lm: LanguageModel, n: int, seed: int) -> list[int]:
    """A seeded sample of the neurons of the hook's block, ascending; `UserError` when the block has fewer."""
    if n == 0:
        return []
    if n > lm.d_neurons:
        raise UserError("activations.n_neurons", f"{n} is more than the {lm.d_neurons} neurons of the block", "Lower it.")
    return sorted(np.random.default_rng(seed).choice(lm.d_neurons, n, replace=False).tolist())


def masked_fraction(reason_BT: Tensor, held_out_B: Tensor) -> pl.DataFrame:
    """split, reason, n_tokens, fraction: every token counted once, `keep` included."""
    rows = []
    for split, of_split in (("train", reason_BT[~held_out_B]), ("held_out", reason_BT[held_out_B])):
        counts = torch.bincount(of_split.flatten().long(), minlength=len(REASONS)).tolist()
        rows += [(split, reason, n, n / of_split.numel()) for reason, n in zip(REASONS, counts, strict=True)]
    schema = {"split": pl.String, "reason": pl.String, "n_tokens": pl.Int64, "fraction": pl.Float64}
    return pl.DataFrame(rows, orient="row", schema=schema)


def moments_of(shards: Sequence[Mapping[str, Tensor]] | ComputedShards, chosen_BT: Tensor) -> Moments:
    """Mean, spread and scale over the chosen tokens of a harvest."""
    first_BT = chosen_BT[: len(shards[0]["norm_BT"])]
    moments = Moments.empty(shards[0]["activations_BTD"][first_BT].double().mean(0).nan_to_num())
    start = 0
    for shard in track(shards, "statistics", unit="shards"):
        n_blocks = len(shard["norm_BT"])
        moments = moments.add(shard["activations_BTD"][chosen_BT[start : start + n_blocks]])
        start += n_blocks
    return moments


def _require_disk(
    plans: list[ShardPlan], corpus: CorpusReader, lm: LanguageModel, activations: Activations, neuron_ids: list[int], work: Path
) -> None:
    missing = [plan for plan in plans if not is_complete(plan, corpus.context, lm.d_model, len(neuron_ids))]
    needed = expected_shard_bytes(
        sum(plan.n_blocks for plan in missing) * corpus.context, lm.d_model, activations.dtype, len(neuron_ids)
    )
    free = shutil.disk_usage(work).free
    if activations.source == "cached" and needed > free:
        raise UserError(
            str(work), f"the activations need {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free",
            "Free some space, lower the corpus's tokens, or set activations.dtype: bfloat16.",
        )  # fmt: skip


def _require_few_masked(fractions: pl.DataFrame, bound: float) -> None:
    by_reason = fractions.group_by("reason", maintain_order=True).agg(pl.col("n_tokens").sum())
    total = int(by_reason["n_tokens"].sum())
    masked = {reason: n for reason, n in by_reason.iter_rows() if reason != "keep" and n}
    if sum(masked.values()) > bound * total:
        shares = ", ".join(f"{reason} {n / total:.2%}" for reason, n in masked.items())
        raise UserError(
            "activations.max_masked_fraction",
            f"{sum(masked.values()) / total:.2%} of the tokens are masked ({shares}), above {bound:.2%}",
            "Raise activations.mask_norm_above_median or max_masked_fraction, or use a longer corpus.context.",
        )  # fmt: skip


def _metadata(
    facts: dict[str, Any], fractions: pl.DataFrame, baselines: pl.DataFrame, norm_BT: Tensor, reason_BT: Tensor,
    lm: LanguageModel, batch: BatchSize,
) -> dict[str, Any]:  # fmt: skip
    total, context = reason_BT.numel(), reason_BT.shape[1]
    by_reason = dict(fractions.group_by("reason", maintain_order=True).agg(pl.col("n_tokens").sum()).iter_rows())
    square_BT = norm_BT.double().square()
    return {
        "n_tokens": total,
        "d_model": lm.d_model,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "dtype_reason": lm.dtype_reason,
        "tokens_per_forward": batch.n_blocks * context,
        "tokens_per_second_by_batch": {str(n_blocks * context): rate for n_blocks, rate in batch.tokens_per_second.items()},
        "masked_fraction": 1 - by_reason["keep"] / total,
        **{f"masked_fraction_{reason}": n / total for reason, n in by_reason.items() if reason != "keep"},
        # Why the mask: the share of all squared norm that these few tokens hold.
        "masked_share_of_square_norm": float(square_BT[reason_BT != KEEP].sum() / square_BT.sum()),
        "scale": facts["scale"],
        "center": facts["center"],
        "median_norm": facts["median_norm"],
        "threshold_norm": facts["threshold_norm"],
        "n_tokens_spliced": len(baselines),
        **{
            name: float(np.mean(baselines[name].to_numpy(), dtype=np.float64)) if len(baselines) else None
            for name in baselines.columns[1:]
        },
    }
