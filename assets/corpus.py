"""Text to token blocks."""

from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.store import Store


@stage_asset(
    kinds={"text", "parquet"},
    checks={
        "schema": SCHEMA,
        "splits_disjoint": "no document is in both splits, and no block mixes them",
        "nothing_empty": "every source has train and held-out tokens, and every document a language",
    },
)
def corpus(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """Documents of every source, split into train and held out by document, packed to blocks of token ids.

    Empty, undecodable and duplicate documents are counted and dropped. The share of held-out 13-grams that also occur in train
    is in `corpus_sources`: templated text makes a held-out split easier than it looks.
    """
    from sae_pipeline.corpus.build import build_corpus
    from sae_pipeline.language_model.tokens import load_tokenizer

    study = store.study
    yield from publish(
        context, store.artifacts, "corpus",
        lambda work: build_corpus(study.corpus, load_tokenizer(study.model), work),
        checks={
            "schema": lambda folder: schema_check(folder, "corpus"),
            "splits_disjoint": splits_disjoint,
            "nothing_empty": nothing_empty,
        },
        force=config.force, headline=("n_tokens", "n_documents"),
    )  # fmt: skip


def splits_disjoint(folder: Path) -> Verdict:
    """Documents seen in the blocks of one split must be documents of that split, and of no other."""
    import polars as pl

    split_of = pl.read_parquet(folder / "documents.parquet", columns=["doc_id", "split"])
    used = pl.read_parquet(folder / "blocks.parquet", columns=["split", "doc_ids"]).explode("doc_ids").unique()
    used = used.select(pl.col("split").alias("block_split"), pl.col("doc_ids").cast(pl.Int32).alias("doc_id"))
    wrong = used.filter(pl.col("doc_id") >= 0).join(split_of, on="doc_id", how="left")
    wrong = wrong.filter(pl.col("split").is_null() | (pl.col("split") != pl.col("block_split")))
    return Verdict(wrong.is_empty(), f"{wrong.height} documents lie in blocks of another split", {"n_wrong": wrong.height})


def nothing_empty(folder: Path) -> Verdict:
    """Every source needs tokens in both splits."""
    import polars as pl

    by_split = pl.read_parquet(folder / "corpus_sources.parquet").group_by("source", "split").agg(pl.col("n_tokens").sum())
    filled = by_split.filter(pl.col("n_tokens") > 0).group_by("source").len()
    empty = sorted(set(by_split["source"]) - set(filled.filter(pl.col("len") == 2)["source"]))
    documents = pl.read_parquet(folder / "documents.parquet", columns=["language"])
    unnamed = documents.filter(pl.col("language").is_null() | (pl.col("language") == "")).height
    summary = f"sources without text in both splits: {empty}" if empty else f"{unnamed} documents without a language"
    return Verdict(not empty and not unnamed, summary, {"n_sources": by_split["source"].n_unique()})
