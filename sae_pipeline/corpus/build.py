"""Build the corpus artefact: documents -> train/held-out split by document -> token blocks.

Shapes: B blocks, T positions.
"""

from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.corpus.pack import grams, pack
from sae_pipeline.corpus.select import Selection, held_out_documents, select
from sae_pipeline.corpus.sources import read_documents
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.tokens import Tokens
from sae_pipeline.store import Outcome
from sae_pipeline.study import Corpus


def build_corpus(corpus: Corpus, tokens: Tokens, work: Path) -> Outcome:
    """Write documents, blocks, vocabulary and corpus_sources (Parquet) into `work`. Raises `UserError`.

    Only the tokenizer of the model is needed (`load_tokenizer`).
    """
    bos_id = tokens.require_bos() if corpus.bos == "prepend" else None
    seeds = np.random.SeedSequence(corpus.seed).spawn(len(corpus.sources) + 1)
    seen: set[bytes] = set()
    selections: dict[str, Selection] = {}
    held_out: list[np.ndarray] = []
    for source, seed in zip(corpus.sources, seeds[:-1], strict=True):
        order, split = seed.spawn(2)
        documents = read_documents(source, int(order.generate_state(1)[0]))
        selection = select(source.label, documents, source.tokens, corpus.max_tokens_per_document, tokens, seen)
        selections[source.label] = selection
        groups = [chosen.document.group for chosen in selection.chosen]
        held_out.append(held_out_documents(groups, corpus.held_out, np.random.default_rng(split)))

    documents = _documents(selections, np.concatenate(held_out))
    blocks, n_cut = _blocks(documents, selections, corpus, bos_id, tokens.require_eos(), np.random.default_rng(seeds[-1]))
    used = blocks.explode("doc_ids").group_by("doc_ids").len().rename({"doc_ids": "doc_id", "len": "n_tokens"})
    documents = (
        documents.join(used, on="doc_id", how="left", maintain_order="left")
        .with_columns(pl.col("n_tokens").fill_null(0).cast(pl.Int32))
        .select("doc_id", "source", "language", "title", "split", "n_chars", "n_tokens", "text")
    )
    sources = _sources(documents, blocks, selections)
    documents.write_parquet(work / "documents.parquet")
    blocks.write_parquet(work / "blocks.parquet")
    sources.write_parquet(work / "corpus_sources.parquet")
    vocabulary(tokens).write_parquet(work / "vocabulary.parquet")
    return Outcome(metadata=_metadata(documents, blocks, sources, corpus.context, n_cut))


def vocabulary(tokens: Tokens) -> pl.DataFrame:
    """token_id, text (read alone), is_special, starts_word."""
    texts = tokens.texts
    special = [token_id in tokens.special_ids or token_id >= len(tokens.tokenizer) for token_id in range(len(texts))]
    return pl.DataFrame(
        {
            "token_id": pl.Series(range(len(texts)), dtype=pl.Int32),
            "text": texts,
            "is_special": special,
            "starts_word": [text.startswith(" ") and len(text) > 1 for text in texts],
        }
    )


def _documents(selections: dict[str, Selection], held_out: np.ndarray) -> pl.DataFrame:
    rows = [
        (label, chosen.document.language, chosen.document.title, len(chosen.text), chosen.text)
        for label, selection in selections.items()
        for chosen in selection.chosen
    ]
    frame = pl.DataFrame(
        rows,
        orient="row",
        schema={"source": pl.String, "language": pl.String, "title": pl.String, "n_chars": pl.Int32, "text": pl.String},
    )
    split = pl.Series("split", np.where(held_out, "held_out", "train").tolist())
    return frame.with_columns(split, pl.int_range(pl.len(), dtype=pl.Int32).alias("doc_id"))


def _blocks(
    documents: pl.DataFrame,
    selections: dict[str, Selection],
    corpus: Corpus,
    bos_id: int | None,
    eos_id: int,
    generator: np.random.Generator,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Blocks of both splits, train first, and how many tokens the last incomplete blocks held."""
    token_ids = [chosen.token_ids for selection in selections.values() for chosen in selection.chosen]
    order = generator.permutation(len(token_ids))
    held_out = (documents["split"] == "held_out").to_numpy()
    parts, n_cut, first = [], {}, 0
    for split in ("train", "held_out"):
        chosen = [(int(doc_id), token_ids[doc_id]) for doc_id in order if held_out[doc_id] == (split == "held_out")]
        ids_BT, docs_BT, n_cut[split] = pack(chosen, corpus.context, bos_id, eos_id)
        if not len(ids_BT):
            n_tokens = sum(len(ids) + 1 for _, ids in chosen)
            raise UserError(
                "corpus.context", f"{corpus.context} tokens per block, but the {split} documents hold only {n_tokens} tokens",
                "Lower corpus.context, or raise the sources' tokens.",
            )  # fmt: skip
        array = pl.Array(pl.Int32, corpus.context)
        parts.append(
            pl.DataFrame(
                {
                    "block": pl.Series(range(first, first + len(ids_BT)), dtype=pl.Int32),
                    "split": [split] * len(ids_BT),
                    "token_ids": pl.Series(ids_BT, dtype=array),
                    "doc_ids": pl.Series(docs_BT, dtype=array),
                }
            )
        )
        first += len(ids_BT)
    return pl.concat(parts), n_cut


def _sources(documents: pl.DataFrame, blocks: pl.DataFrame, selections: dict[str, Selection]) -> pl.DataFrame:
    """One row per source and split. Documents dropped before the split are counted on the source's train row."""
    arrays = {
        split: [part[column].to_numpy() for column in ("token_ids", "doc_ids")]
        for (split,), part in blocks.partition_by("split", as_dict=True).items()
    }
    train_hashes = np.unique(grams(*arrays["train"])[0])
    hashes, docs = grams(*arrays["held_out"])
    shared = np.isin(hashes, train_hashes)
    source_of_gram = documents["source"].to_numpy()[docs]
    rows = []
    for label, selection in selections.items():
        for split in ("train", "held_out"):
            part = documents.filter((pl.col("source") == label) & (pl.col("split") == split))
            languages = part["language"].unique().to_list()
            dropped = selection.dropped if split == "train" else None
            own = shared[source_of_gram == label]
            rows.append(
                {
                    "source": label,
                    "language": languages[0] if len(languages) == 1 else None,
                    "split": split,
                    "n_documents": part.height,
                    "n_tokens": int(part["n_tokens"].sum()),
                    "n_dropped_empty": dropped.empty if dropped else 0,
                    "n_dropped_undecodable": dropped.undecodable if dropped else 0,
                    "n_dropped_duplicate": dropped.duplicate if dropped else 0,
                    "held_out_13gram_share": float(own.mean()) if split == "held_out" and len(own) else None,
                }
            )
    counts = {name: pl.Int64 for name in rows[0] if name.startswith("n_")}
    strings = {"source": pl.String, "language": pl.String, "split": pl.String}
    return pl.DataFrame(rows, schema_overrides={**strings, **counts, "held_out_13gram_share": pl.Float64})


def _metadata(documents: pl.DataFrame, blocks: pl.DataFrame, sources: pl.DataFrame, context: int, n_cut: dict[str, int]) -> dict:
    counts = {f"{split}_blocks": int((blocks["split"] == split).sum()) for split in ("train", "held_out")}
    total = sources.sum()
    return {
        "n_documents": documents.height,
        "n_languages": documents["language"].n_unique(),
        "n_blocks": blocks.height,
        "n_tokens": blocks.height * context,
        "context": context,
        **counts,
        **{name: int(total[name][0]) for name in ("n_dropped_empty", "n_dropped_undecodable", "n_dropped_duplicate")},
        "n_tokens_in_incomplete_blocks": sum(n_cut.values()),
        **{
            f"held_out_13gram_share_{row['source']}": row["held_out_13gram_share"]
            for row in sources.iter_rows(named=True)
            if row["held_out_13gram_share"] is not None
        },
    }
