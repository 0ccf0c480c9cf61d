"""The control of a model that has learned nothing: one small SAE on the study's model with its weights drawn anew.

After Heap et al. 2025, who find that explanations and reconstruction often look as good on such a model: whatever scores here
come from text statistics that every network passes on, not from anything that the model learned.

Shapes: B blocks, T positions, N tokens, F features.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from sae_pipeline.activations.build import moments_of
from sae_pipeline.activations.mask import token_mask
from sae_pipeline.activations.reader import KEEP, ActivationReader
from sae_pipeline.activations.shards import harvest, plan_shards, tuned_batch
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.token_stats import MIN_EXAMPLES
from sae_pipeline.interpret.units import Units, choose, load_units, save_units
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.build import build_sae
from sae_pipeline.sae.evaluate import measure_held_out
from sae_pipeline.store import Outcome
from sae_pipeline.study import Activations, RandomModel, Sae

UNITS_FILE = "units.safetensors"
ENCODED_AT_ONCE = 8_192  # tokens


def build_random_model(
    corpus_folder: Path, lm: LanguageModel | None, activations: Activations, sae: Sae, settings: RandomModel, work: Path,
    device: str = "cpu",
) -> Outcome:  # fmt: skip
    """Train `sae` (one size) on `lm` (see `reinitialized_language_model`) and write its features to `work` as units to score.

    `lm` None (`settings.n_tokens` 0) leaves the control out: the file then holds no units.
    """
    if lm is None:
        save_units([], work / UNITS_FILE)
        return Outcome(metadata={"n_tokens": 0, "n_live": 0})
    whole = CorpusReader.open(corpus_folder)
    blocks = choose_blocks(whole.held_out_B, whole.context, settings.n_tokens, settings.seed)
    part = replace(
        whole, token_ids_BT=whole.token_ids_BT[blocks], doc_ids_BT=whole.doc_ids_BT[blocks], held_out_B=whole.held_out_B[blocks]
    )
    plans, dtype = plan_shards(part, work / "shards"), getattr(torch, activations.dtype)
    harvest(part, lm, plans, [], dtype, tuned_batch(part, lm, plans, [], dtype, work).n_blocks)
    reader = _reader(part, [load_file(plan.path) for plan in plans], lm, activations, work)
    (size,) = sae.sizes
    trained = build_sae(reader, sae, size, work, {"reinitialized": True}, device)
    autoencoder = SparseAutoencoder.load(work, device)
    units = _units(autoencoder, reader, blocks)
    save_units([units], work / UNITS_FILE)
    reconstruction, activity, _ = measure_held_out(part, reader, autoencoder)
    for plan in plans:
        plan.path.unlink()  # the units say all that is needed
    (work / "shards").rmdir()
    return Outcome(
        metadata={
            "n_tokens": int(part.token_ids_BT.size), "n_features": size, "n_live": len(units.explained),
            "n_tokens_trained": trained.metadata["n_tokens_trained"], "l0": activity.l0(),
            "explained_variance": reconstruction.explained_variance(),
            "masked_fraction": float((reader.reason_BT != KEEP).float().mean()),
        }
    )  # fmt: skip


def choose_blocks(held_out_B: np.ndarray, context: int, n_tokens: int, seed: int) -> np.ndarray:
    """Indices, ascending, of about `n_tokens` tokens of blocks drawn from train and held out in the corpus's proportion."""
    random = np.random.default_rng(seed)
    n_blocks = min(len(held_out_B), max(2, -(-n_tokens // context)))
    chosen = []
    for split in (False, True):
        pool = np.flatnonzero(held_out_B == split)
        chosen.append(random.choice(pool, min(len(pool), max(1, round(n_blocks * len(pool) / len(held_out_B)))), replace=False))
    return np.sort(np.concatenate(chosen))


def random_model_units(folder: Path, density_C: np.ndarray, reader: ActivationReader) -> list[Units]:
    """One live feature for each wanted density (share of train tokens), the nearest in logarithm that is left; `[]` without any.

    `reader`: the study's own activations, for which blocks are held out.
    """
    found = load_units(folder / UNITS_FILE)
    if not found:
        return []
    (units,) = found
    assert units.seen is not None
    n_train = int((~reader.held_out_B[units.seen // reader.context]).sum())
    count_U = units.train.count_U
    left = [column for column in np.flatnonzero(units.held_out.count_U).tolist() if count_U[column] >= MIN_EXAMPLES]
    columns: list[int] = []
    for density in density_C.tolist():
        if not left:
            break
        nearest = min(left, key=lambda column: (abs(np.log(count_U[column] / n_train / density)), column))
        left.remove(nearest)
        columns.append(nearest)
    return [choose(units, sorted(columns))] if columns else []


def _reader(
    part: CorpusReader, shards: list[dict[str, torch.Tensor]], lm: LanguageModel, activations: Activations, folder: Path
) -> ActivationReader:
    """The harvest with mask, mean and scale of its own, made as those of the study are."""
    held_out_B = torch.from_numpy(part.held_out_B)
    ids_BT, norm_BT = (torch.cat([shard[name] for shard in shards]) for name in ("token_ids_BT", "norm_BT"))
    reason_BT, threshold, _ = token_mask(ids_BT, norm_BT, held_out_B, lm.special_ids, activations.mask_norm_above_median)
    moments = moments_of(shards, (reason_BT == KEEP) & ~held_out_B[:, None])
    facts = {
        "scale": moments.scale(activations.center), "centered": activations.center, "threshold_norm": threshold,
        "d_model": lm.d_model, "context": part.context, "neuron_ids": [],
    }  # fmt: skip
    return ActivationReader(folder, facts, shards, reason_BT, held_out_B, moments.mean_D.float(), moments.std_D.float())


def _units(sae: SparseAutoencoder, reader: ActivationReader, blocks: np.ndarray) -> Units:
    """Every feature with its activations, by the token indices of the whole corpus."""
    first_token_B = torch.from_numpy(blocks) * reader.context
    split, seen = {}, []
    for name in ("train", "held_out"):
        local_N = reader.token_index(name)
        global_N = first_token_B[local_N // reader.context] + local_N % reader.context
        seen.append(global_N)
        feature, token, value = [], [], []
        for start in range(0, len(local_N), ENCODED_AT_ONCE):
            codes = sae.encode_sparse(reader.gather(local_N[start : start + ENCODED_AT_ONCE]))
            feature.append(codes.feature.cpu().numpy())
            token.append(global_N[start + codes.token.cpu()].numpy())
            value.append(codes.value.cpu().numpy())
        arrays = (np.concatenate(each) for each in (feature, token, value))
        split[name] = SparseActivations.from_arrays(*arrays, n_units=sae.n_features)
    live = np.flatnonzero(split["held_out"].count_U)
    every = torch.cat(seen).sort().values.numpy()
    return Units("random_model_feature", np.arange(sae.n_features), split["train"], split["held_out"], live, every)
