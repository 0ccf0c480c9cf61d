"""A small world with planted features, as arrays and as artefact folders, for the tests of `sae_pipeline.interpret`."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.interpret.protocols import Explanation
from sae_pipeline.interpret.rules import Rule
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units

SEA = ["island", "coast", "harbour", "sailor", "tide", "anchor"]
LAW = ["judge", "court", "verdict", "lawyer", "jury", "appeal"]
COMMON = ["the", "a", "of", "and", "in", "armed", "forces", "near", "by", "old", "big", "red"]
TEXTS = ["<s>", "\n", *(f" {word}" for word in SEA + LAW + COMMON), *(f" {n}" for n in range(10)), "isl", "ands"]
CONTEXT = 32
PLANTED = ("token", "bigram", "near", "class_in", "rare", "position", "noise", "previous", "dead")


def token(text: str) -> int:
    return TEXTS.index(text)


def make_tokens(n_documents: int = 80, seed: int = 0) -> TokenTable:
    """One document per block, every fifth held out; sources `sea` and `law` with words of their own, numbers in both."""
    random = np.random.default_rng(seed)
    ids = np.empty((n_documents, CONTEXT), dtype=np.int32)
    ids[:, 0] = token("<s>")
    for document in range(n_documents):
        own = SEA if document % 2 else LAW
        words = [*(f" {word}" for word in own), *(f" {word}" for word in COMMON), *(f" {n}" for n in range(10))]
        ids[document, 1:] = [token(words[i]) for i in random.integers(0, len(words), CONTEXT - 1)]
    at = np.flatnonzero(random.random(ids.size) < 0.04)
    at = at[(at % CONTEXT != 0) & (at % CONTEXT != CONTEXT - 1)]
    ids.reshape(-1)[at], ids.reshape(-1)[at + 1] = token(" armed"), token(" forces")
    held_out = np.repeat(np.arange(n_documents) % 5 == 4, CONTEXT)
    return TokenTable(
        context=CONTEXT,
        token_id_N=ids.reshape(-1),
        doc_id_N=np.repeat(np.arange(n_documents, dtype=np.int32), CONTEXT),
        kept_N=np.tile(np.arange(CONTEXT) > 0, n_documents),
        held_out_N=held_out,
        group_N=np.repeat((np.arange(n_documents) % 2).astype(np.int32), CONTEXT),
        group_names=("law", "sea", "(none)"),
        token_text=tuple(TEXTS),
        special_V=np.array([text == "<s>" for text in TEXTS]),
        starts_word_V=np.array([text.startswith(" ") for text in TEXTS]),
    )


def planted_masks(tokens: TokenTable) -> dict[str, np.ndarray]:
    """Where each planted feature is active, over all tokens."""
    ids, random = tokens.token_id_N, np.random.default_rng(9)
    near = np.zeros(tokens.n_tokens, dtype=bool)
    for i in np.flatnonzero(ids == token(" verdict")):
        end = min(i + 16, i - i % CONTEXT + CONTEXT - 1)
        near[i + 1 : end + 1] = True
    masks = {
        "token": ids == token(" island"),
        "bigram": (ids == token(" forces")) & (tokens.previous_N == token(" armed")),
        "near": near,
        "class_in": np.isin(ids, [token(f" {n}") for n in range(10)]) & (tokens.group_N == 1),
        "rare": np.isin(np.arange(tokens.n_tokens), [70, 300, 4 * CONTEXT + 7]),
        "position": np.isin(tokens.position_N, [1, 2, 3]),
        "noise": random.random(tokens.n_tokens) < 0.02,
        "previous": tokens.previous_N == token(" the"),
        "dead": np.zeros(tokens.n_tokens, dtype=bool),
    }
    return {name: mask & tokens.kept_N for name, mask in masks.items()}


def sparse_of(masks: list[np.ndarray], where: np.ndarray, seed: int = 1) -> SparseActivations:
    random = np.random.default_rng(seed)
    unit, index = np.nonzero(np.stack(masks) & where)
    return SparseActivations.from_arrays(unit, index, random.uniform(0.05, 1.0, len(unit)).astype(np.float32), len(masks))


def make_units(tokens: TokenTable) -> Units:
    masks = list(planted_masks(tokens).values())
    train, held_out = sparse_of(masks, tokens.train_N, 1), sparse_of(masks, tokens.test_N, 2)
    return Units("sae_feature", np.arange(len(masks)), train, held_out, np.flatnonzero(held_out.count_U))


def explanation(rule: Rule, text: str = "Fires on 'island'.") -> Explanation:
    return Explanation("sae_feature", 0, "token-stats", text, "token", rule.to_json(), "ok", 50)


@dataclass(frozen=True)
class Folders:
    corpus: Path
    activations: Path
    feature_stats: Path


def write_artefacts(folder: Path, tokens: TokenTable, units: Units, n_neurons: int = 6, d_model: int = 8) -> Folders:
    """The artefacts that the builders read, in the published formats."""
    folders = Folders(folder / "corpus", folder / "activations", folder / "feature_stats")
    for each in (folders.corpus, folders.feature_stats, folders.activations / "shards"):
        each.mkdir(parents=True)
    n_blocks = tokens.n_tokens // CONTEXT
    ids, docs = tokens.token_id_N.reshape(n_blocks, CONTEXT), tokens.doc_id_N.reshape(n_blocks, CONTEXT)
    held_out = tokens.held_out_N.reshape(n_blocks, CONTEXT)[:, 0]
    split = ["held_out" if held else "train" for held in held_out]
    pl.DataFrame(
        {"block": range(n_blocks), "split": split, "token_ids": ids, "doc_ids": docs},
        schema_overrides={"token_ids": pl.Array(pl.Int32, CONTEXT), "doc_ids": pl.Array(pl.Int32, CONTEXT)},
    ).write_parquet(folders.corpus / "blocks.parquet")
    source = [tokens.group_names[group] for group in tokens.group_N[::CONTEXT]]
    pl.DataFrame({"doc_id": range(n_blocks), "source": source, "language": ["english"] * n_blocks, "split": split}).write_parquet(
        folders.corpus / "documents.parquet"
    )
    pl.DataFrame(
        {"token_id": range(len(TEXTS)), "text": TEXTS, "is_special": tokens.special_V, "starts_word": tokens.starts_word_V}
    ).write_parquet(folders.corpus / "vocabulary.parquet")

    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            "activations_BTD": torch.randn(n_blocks, CONTEXT, d_model, generator=generator),
            "neurons_BTM": torch.randn(n_blocks, CONTEXT, n_neurons, generator=generator),
            "norm_BT": torch.ones(n_blocks, CONTEXT),
            "token_ids_BT": torch.from_numpy(ids).contiguous(),
        },
        folders.activations / "shards" / "00000.safetensors",
    )
    reason = torch.from_numpy(np.where(tokens.kept_N, 0, 1).astype(np.uint8).reshape(n_blocks, CONTEXT))
    save_file(
        {"reason_BT": reason, "held_out_B": torch.from_numpy(held_out.astype(np.uint8))},
        folders.activations / "mask.safetensors",
    )
    save_file({"mean_D": torch.zeros(d_model), "std_D": torch.ones(d_model)}, folders.activations / "statistics.safetensors")
    facts = {
        "d_model": d_model,
        "neuron_ids": list(range(10, 10 + n_neurons)),
        "scale": 1.0,
        "centered": True,
        "context": CONTEXT,
    }
    (folders.activations / "statistics.json").write_text(json.dumps(facts), encoding="utf-8")

    for name, activations in (("train", units.train), ("held_out", units.held_out)):
        unit = np.repeat(np.arange(activations.n_units, dtype=np.int32), activations.count_U)
        table = pa.table({"feature": unit, "token_index": activations.token_index, "value": activations.value})
        table = table.replace_schema_metadata({"n_units": str(activations.n_units)})
        pq.write_table(table, folders.feature_stats / f"activations_{name}.parquet")
    pl.DataFrame({"feature": range(units.train.n_units), "alive": units.held_out.count_U > 0}).write_parquet(
        folders.feature_stats / "features.parquet"
    )
    logits = {"feature": [0, 0, 0], "sign": ["+", "+", "-"], "rank": [2, 1, 1], "token": [" sea", " coast", " law"]}
    pl.DataFrame(logits).write_parquet(folders.feature_stats / "feature_logits.parquet")
    return folders
