"""Tables of features: statistics, examples, logit effects and the sparse cache of activations."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import (
    DENSE_UNITS,
    EXAMPLE_KINDS,
    N_INTERVALS,
    SPLITS,
    column,
    count,
    feature,
    one_of,
    same_length,
    share,
    size,
    table,
)
from sae_pipeline.tables.data_tables import DOC_ID, TOKEN_INDEX

_SPLIT = column(pl.String, "train: explainers may see it; held_out: only scorers may", one_of(SPLITS))
_INTERVAL = column(
    pl.Int8, "Activation interval: 1..10, equal parts of (0, training maximum]; higher held-out values are in 10",
    pa.Check.in_range(1, N_INTERVALS),
)  # fmt: skip
_TOKEN = column(pl.String, "Text of the token")

FEATURE_TABLES = (
    table(
        "features",
        "One feature of one SAE. Unmasked tokens only.",
        {
            "size": size(),
            "feature": feature(),
            "alive": column(pl.Boolean, "Active on at least one held-out token"),
            "density": share("Share of training tokens on which the feature is active"),
            "density_held_out": share("Share of held-out tokens on which the feature is active"),
            "n_active_train": count("Training tokens on which the feature is active"),
            "n_active_held_out": count("Held-out tokens on which the feature is active"),
            "max_activation": column(pl.Float64, "Training maximum M (0: never active in training)", pa.Check.ge(0)),
            "mean_activation": column(pl.Float64, "Training mean over the tokens where it is active", pa.Check.ge(0)),
            "n_documents_train": count("Training documents in which the feature is active"),
            "top_token": column(pl.String, "Token with the largest share of training activation mass", nullable=True),
            "top_token_share": share("That token's share of the training activation mass", nullable=True),
        },
        file="feature_stats/<size>/features.parquet", key=("size", "feature"),
    ),
    table(
        "feature_intervals",
        "How many activations of a feature fall into an activation interval. Empty intervals have no row.",
        {"size": size(), "feature": feature(), "split": _SPLIT, "interval": _INTERVAL, "n": count("Activations")},
        file="feature_stats/<size>/feature_intervals.parquet", key=("size", "feature", "split", "interval"),
    ),
    table(
        "feature_examples",
        "One place where a feature is active, with the tokens around it (cut at the ends of the block).",
        {
            "size": size(),
            "feature": feature(),
            "kind": column(
                pl.String, "top: strongest in training, distinct documents; interval: uniform sample of the interval",
                one_of(EXAMPLE_KINDS),
            ),
            "split": _SPLIT,
            "interval": _INTERVAL,
            "rank": column(pl.Int16, "1 is the strongest (top) or the first drawn (interval)", pa.Check.ge(1)),
            "doc_id": column(pl.Int32, DOC_ID, pa.Check.ge(0)),
            "token_index": column(pl.Int64, TOKEN_INDEX, pa.Check.ge(0)),
            "position": column(pl.Int16, "Position in the block", pa.Check.ge(0)),
            "center": column(pl.Int16, "Place of the active token in the lists", pa.Check.ge(0)),
            "token_ids": column(pl.List(pl.Int32), "Token ids of the window"),
            "tokens": column(pl.List(pl.String), "Token texts of the window"),
            "activations": column(pl.List(pl.Float32), "The feature's activation on each token (0 on masked tokens)"),
            "activation": column(pl.Float32, "Activation on the active token", pa.Check.gt(0)),
        },
        file="feature_stats/<size>/feature_examples.parquet",
        key=("size", "feature", "kind", "split", "interval", "rank"),
        checks=(same_length("token_ids", "tokens", "activations"),),
    ),
    table(
        "feature_logits",
        "Tokens that a feature's decoder direction promotes or suppresses most, by the unembedding alone.",
        {
            "size": size(),
            "feature": feature(),
            "sign": column(pl.String, "+: promoted, -: suppressed", one_of(("+", "-"))),
            "rank": column(pl.Int16, "1 is the strongest", pa.Check.ge(1)),
            "token_id": column(pl.Int32, "Token id", pa.Check.ge(0)),
            "token": _TOKEN,
            "effect": column(pl.Float32, "Unit decoder row times the token's unembedding column (final norm's gain folded in)"),
        },
        file="feature_stats/<size>/feature_logits.parquet", key=("size", "feature", "sign", "rank"),
    ),
    table(
        "feature_correlations",
        "The residual dimension, and the stored MLP neuron of the hook's block, that a feature follows most. Unmasked tokens.",
        {
            "size": size(),
            "feature": feature(),
            "unit": column(pl.String, "Among which units the strongest was sought", one_of(DENSE_UNITS)),
            "unit_id": column(pl.Int32, "The strongest: dimension at the hook, or entry of down_proj's input", pa.Check.ge(0)),
            "r": column(pl.Float64, "Pearson correlation on training tokens, by which it was chosen", pa.Check.in_range(-1, 1)),
            "r_held_out": column(
                pl.Float64, "With the same unit on held-out tokens; null: never active there", pa.Check.in_range(-1, 1),
                nullable=True,
            ),
        },
        file="feature_stats/<size>/feature_correlations.parquet", key=("size", "feature", "unit"),
    ),
    table(
        "feature_activations",
        "Every activation of every feature on unmasked tokens (one file per split), sorted by feature and token.",
        {
            "feature": feature(),
            "token_index": column(pl.Int64, TOKEN_INDEX, pa.Check.ge(0)),
            "value": column(pl.Float32, "Activation", pa.Check.gt(0)),
        },
        file="feature_stats/<size>/activations_<split>.parquet", key=("feature", "token_index"), in_database=False,
        ascending=True,
    ),
)  # fmt: skip
