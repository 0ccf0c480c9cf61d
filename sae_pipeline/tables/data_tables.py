"""Tables of the corpus and of the activations: what was read, what was kept, what was masked."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import MASK_REASONS, SPLITS, column, count, one_of, same_length, share, table

DOC_ID = "Document, from 0 in the corpus's seeded order"
TOKEN_INDEX = "Position of a token in the whole corpus: block x context + position"

DATA_TABLES = (
    table(
        "documents",
        "One document of the corpus: a country x section, a source file, a conversation, a row of a data set.",
        {
            "doc_id": column(pl.Int32, DOC_ID, pa.Check.ge(0)),
            "source": column(pl.String, "Name of the corpus source"),
            "language": column(pl.String, "Language (or programming language)", nullable=True),
            "title": column(pl.String, "Short name of the document"),
            "split": column(pl.String, "Whole documents are held out", one_of(SPLITS)),
            "n_chars": column(pl.Int32, "Characters", pa.Check.ge(0)),
            "n_tokens": column(pl.Int32, "Tokens used in blocks", pa.Check.ge(0)),
            "text": column(pl.String, "The text"),
        },
        file="corpus/documents.parquet", key=("doc_id",),
    ),
    table(
        "blocks",
        "One block of tokens, the unit that the language model reads.",
        {
            "block": column(pl.Int32, "Block, from 0", pa.Check.ge(0)),
            "split": column(pl.String, "No block mixes splits", one_of(SPLITS)),
            "token_ids": column(pl.List(pl.Int32), "Token ids (exactly `context` of them)"),
            "doc_ids": column(pl.List(pl.Int32), "Document of each token; -1 at the BOS token"),
        },
        file="corpus/blocks.parquet", key=("block",), checks=(same_length("token_ids", "doc_ids"),), in_database=False,
    ),
    table(
        "vocabulary",
        "One token of the model's vocabulary.",
        {
            "token_id": column(pl.Int32, "Token id", pa.Check.ge(0)),
            "text": column(pl.String, "Text of the token decoded alone; pieces of a character are shown like \\xe2"),
            "is_special": column(pl.Boolean, "Special or template token"),
            "starts_word": column(pl.Boolean, "Starts a word (its text begins with white space)"),
        },
        file="corpus/vocabulary.parquet", key=("token_id",),
    ),
    table(
        "corpus_sources",
        "One source of text in one split, with what was dropped.",
        {
            "source": column(pl.String, "Name of the corpus source"),
            "language": column(pl.String, "Language, where the source is counted by language", nullable=True),
            "split": column(pl.String, "train or held_out", one_of(SPLITS)),
            "n_documents": count("Documents used"),
            "n_tokens": count("Tokens used, BOS not counted"),
            "n_dropped_empty": count("Documents dropped because nothing was left of them"),
            "n_dropped_undecodable": count("Documents dropped because they could not be decoded"),
            "n_dropped_duplicate": count("Documents dropped because an equal one came before"),
            "held_out_13gram_share": share("Share of held-out 13-grams of tokens that also occur in train", nullable=True),
        },
        file="corpus/corpus_sources.parquet", key=("source", "language", "split"),
    ),
    table(
        "masked_fraction",
        "How many tokens the token mask keeps and drops, by reason.",
        {
            "split": column(pl.String, "train or held_out", one_of(SPLITS)),
            "reason": column(pl.String, "Why the token is masked; `keep`: not masked", one_of(MASK_REASONS)),
            "n_tokens": count("Tokens"),
            "fraction": share("Share of the split's tokens"),
        },
        file="activations/masked_fraction.parquet", key=("split", "reason"),
    ),
    table(
        "splice_baselines",
        "Next-token cross-entropy of the language model at the sampled held-out positions, before any SAE is spliced in.",
        {
            "token_index": column(pl.Int64, TOKEN_INDEX, pa.Check.ge(0)),
            "ce_clean": column(pl.Float32, "Cross-entropy of the untouched model, nats", pa.Check.ge(0)),
            "ce_zero": column(pl.Float32, "Cross-entropy with the activation set to zero, nats", pa.Check.ge(0)),
            "ce_mean": column(pl.Float32, "Cross-entropy with the activation set to its training mean, nats", pa.Check.ge(0)),
        },
        file="activations/splice_baselines.parquet", key=("token_index",), in_database=False,
    ),
)  # fmt: skip
