"""Tables of the SAEs: held-out quality and training history."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.sae.names import ARCHITECTURES
from sae_pipeline.tables.columns import column, count, one_of, share, size, table

_AT_MOST_ONE = pa.Check.le(1)
MIXING = {
    "distinct_documents_per_batch": "Documents in a training batch, mean (from the SAE's manifest; only in the database)",
    "same_context_pairs_per_batch": "Pairs of tokens out of one block in a training batch, mean (likewise)",
}

SAE_TABLES = (
    table(
        "sae_metrics",
        "One SAE, measured on held-out tokens.",
        {
            "size": size(),
            "n_features": column(pl.Int32, "Features", pa.Check.ge(1)),
            "architecture": column(pl.String, "Architecture", one_of(ARCHITECTURES)),
            "l0": column(pl.Float64, "Mean number of active features per unmasked token", pa.Check.ge(0)),
            "explained_variance": column(pl.Float64, "1 - residual / variance over unmasked tokens", _AT_MOST_ONE),
            "explained_variance_unmasked": column(
                pl.Float64, "The same over all tokens: misleading where a few massive activations are most of the variance",
                _AT_MOST_ONE,
            ),
            "explained_variance_standardized": column(
                pl.Float64, "The same with every dimension divided by its standard deviation", _AT_MOST_ONE
            ),
            "mse": column(pl.Float64, "Mean squared error per token and dimension, scaled space", pa.Check.ge(0)),
            "ce_recovered_zero": column(pl.Float64, "Cross-entropy recovered against zero ablation", nullable=True),
            "ce_recovered_mean": column(pl.Float64, "Cross-entropy recovered against mean ablation", nullable=True),
            "delta_ce": column(pl.Float64, "Spliced minus clean cross-entropy, nats", nullable=True),
            "kl": column(pl.Float64, "KL divergence clean || spliced, nats per token", nullable=True),
            "ce_clean": column(pl.Float64, "Cross-entropy of the untouched model, nats", nullable=True),
            "ce_spliced": column(pl.Float64, "Cross-entropy with the SAE's reconstruction spliced in, nats", nullable=True),
            "ce_zero": column(pl.Float64, "Cross-entropy with the activation set to zero, nats", nullable=True),
            "ce_mean": column(pl.Float64, "Cross-entropy with the activation set to its mean, nats", nullable=True),
            "alive_fraction": share("Share of features with any activation on the held-out tokens"),
            "dead_fraction": share("1 - alive_fraction"),
            "masked_fraction": share("Share of held-out tokens that the token mask drops"),
            "n_tokens_trained": count("Tokens trained on, epochs counted; null: an imported SAE does not say", nullable=True),
            "n_tokens_held_out": count("Unmasked held-out tokens evaluated"),
            "n_tokens_spliced": count("Tokens of the cross-entropy and KL sample"),
            "seconds": column(
                pl.Float64, "Training time (from the SAE's manifest; only in the database)", pa.Check.ge(0), required=False
            ),
            **{
                name: column(pl.Float64, description, pa.Check.ge(0), nullable=True, required=False)
                for name, description in MIXING.items()
            },
        },
        file="sae_metrics/<size>/sae_metrics.parquet", key=("size",),
    ),
    table(
        "sae_metrics_by_source",
        "The same SAE on the held-out tokens of one corpus source.",
        {
            "size": size(),
            "source": column(pl.String, "Name of the corpus source"),
            "n_tokens": count("Unmasked held-out tokens"),
            "l0": column(pl.Float64, "Mean number of active features per token", pa.Check.ge(0)),
            "explained_variance": column(pl.Float64, "1 - residual / variance, mean of this source", _AT_MOST_ONE),
        },
        file="sae_metrics/<size>/sae_metrics_by_source.parquet", key=("size", "source"),
    ),
    table(
        "sae_metrics_by_document",
        "Sums over the held-out tokens of one document, scaled space; the metrics are ratios of their totals.",
        {
            "size": size(),
            "doc_id": column(pl.Int32, "Document", pa.Check.ge(0)),
            "source": column(pl.String, "Name of the corpus source"),
            "n_tokens": count("Unmasked held-out tokens"),
            "n_active": count("Active features, summed over tokens"),
            "error": column(pl.Float64, "Squared errors of the reconstruction", pa.Check.ge(0)),
            "variation": column(pl.Float64, "Squared distances from the mean of all held-out tokens", pa.Check.ge(0)),
            "variation_of_source": column(
                pl.Float64, "Squared distances from the mean of the source's held-out tokens", pa.Check.ge(0)
            ),
            "n_tokens_spliced": count("Tokens of the cross-entropy sample"),
            "ce_clean": column(pl.Float64, "Their cross-entropy under the untouched model, nats, summed", nullable=True),
            "ce_spliced": column(pl.Float64, "The same with the SAE's reconstruction spliced in", nullable=True),
            "ce_zero": column(pl.Float64, "The same with the activation set to zero", nullable=True),
            "ce_mean": column(pl.Float64, "The same with the activation set to its mean", nullable=True),
        },
        file="sae_metrics/<size>/sae_metrics_by_document.parquet", key=("size", "doc_id"),
    ),
    table(
        "training_history",
        "One logged step of the training of an SAE.",
        {
            "size": column(pl.Int32, "Number of features of the SAE (added in the database)", pa.Check.ge(1), required=False),
            "step": column(pl.Int32, "Optimizer step", pa.Check.ge(0)),
            "n_tokens": count("Tokens seen"),
            "loss": column(pl.Float64, "Training loss"),
            "mse": column(pl.Float64, "Squared error per token, scaled space"),
            "l0": column(pl.Float64, "Mean number of active features per token"),
            "explained_variance_batch": column(pl.Float64, "Explained variance on the batch", nullable=True),
            "dead_fraction": column(pl.Float64, "Share of features without recent activation", nullable=True),
            "learning_rate": column(pl.Float64, "Learning rate", pa.Check.ge(0)),
            "l1": column(pl.Float64, "Lambda of the penalty; 0 where k sets the sparsity", nullable=True),
            "grad_norm": column(pl.Float64, "Gradient norm before clipping", nullable=True),
        },
        file="sae/<size>/history.parquet", key=("step",),
    ),
)  # fmt: skip
