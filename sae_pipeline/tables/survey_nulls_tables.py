"""Tables of `null_models`: what dictionaries reach that learned nothing of the model."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.sae.names import ARCHITECTURES
from sae_pipeline.tables.columns import column, count, one_of, share, table

ARMS = ("trained SAE", "frozen decoder", "principal components", "random directions", "random model")
SYNTHETIC_ARMS = (*ARCHITECTURES, "frozen decoder")


def _arm() -> pa.Column:
    return column(pl.String, "What is measured: an SAE trained by the same recipe, or one of its nulls", one_of(ARMS))


def _seed() -> pa.Column:
    return column(pl.Int32, "Seed of its training, or of its draw", pa.Check.ge(0))


NULL_TABLES = (
    table(
        "synthetic_recovery",
        "Planted sparse directions in superposition, and how many of them each architecture finds.",
        {
            "architecture": column(pl.String, "Architecture; `frozen decoder` is batch_topk, its decoder never trained",
                                   one_of(SYNTHETIC_ARMS)),
            "seed": column(pl.Int32, "Of the planted directions, of the tokens and of the training", pa.Check.ge(0)),
            "n_planted": count("Planted directions"),
            "n_recovered": count("Those with a decoder row of cosine at least .9"),
            "median_best_cosine": column(pl.Float64, "Median of the best cosines", pa.Check.in_range(-1, 1.0001)),
            "l0": column(pl.Float64, "Active features per held-out token; 4 directions are planted in each", pa.Check.ge(0)),
            "explained_variance": column(pl.Float64, "On held-out tokens", pa.Check.le(1)),
        },
        file="null_models/synthetic_recovery.parquet", key=("architecture", "seed"),
    ),
    table(
        "null_model_reconstruction",
        "Explained variance and cross-entropy recovered on held-out tokens at equal L0 (or k), intervals by document.",
        {
            "arm": _arm(),
            "seed": _seed(),
            "explained_variance": column(pl.Float64, "Explained variance (docs/metrics.md)", pa.Check.le(1)),
            "low": column(pl.Float64, "Lower end of its 95 % interval", nullable=True),
            "high": column(pl.Float64, "Upper end", nullable=True),
            "l0": column(pl.Float64, "Active features, components or directions per token", pa.Check.ge(0)),
            "n_alive": count("Of them active at least once"),
            "n_tokens": count("Held-out tokens; null for the random model, which has activations of its own", nullable=True),
            "n_documents": count("Their documents", nullable=True),
            "n_tokens_spliced": count("Held-out tokens predicted with the reconstruction in the model; null for seeds other than "
                                      "the first and for the random model, which is another model", nullable=True),
            "ce_recovered_zero": column(pl.Float64, "Cross-entropy recovered against zero ablation", nullable=True),
            "ce_recovered_mean": column(pl.Float64, "Cross-entropy recovered against mean ablation", nullable=True),
            "delta_ce": column(pl.Float64, "Cross-entropy beyond the clean model's, nats per token", nullable=True),
            "kl": column(pl.Float64, "KL divergence clean || spliced, nats per token", nullable=True),
        },
        file="null_models/null_model_reconstruction.parquet", key=("arm", "seed"),
    ),
    table(
        "null_model_scores",
        "The offline scores of the main run for units of a trained SAE and of every null, through one explainer and one scorer.",
        {
            "arm": _arm(),
            "unit_id": column(pl.Int32, "Feature, component or direction", pa.Check.ge(0)),
            "density": share("Fraction of the training tokens on which the unit is active"),
            "specificity": column(pl.Float64, "Mean rubric score of its windows (proxy); null where it could not be explained",
                                  pa.Check.in_range(0, 3), nullable=True),
            "n_windows": count("Held-out windows that were scored, one per activation interval"),
            "rule_f1": share("F1 of its rule on held-out tokens", nullable=True),
        },
        file="null_models/null_model_scores.parquet", key=("arm", "unit_id"),
    ),
)  # fmt: skip
