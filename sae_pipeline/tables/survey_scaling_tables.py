"""Tables of `scaling_laws`: every SAE that was trained for them, and the laws."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.sae.names import ARCHITECTURES
from sae_pipeline.tables.columns import column, count, one_of, share, table

EXPERIMENTS = ("grid", "rate", "equal_l0")
QUANTITIES = ("loss", "optimal_features", "optimal_steps", "optimal_learning_rate")


def _number(description: str, nullable: bool = False) -> pa.Column:
    return column(pl.Float64, description, nullable=nullable)


SCALING_TABLES = (
    table(
        "scaling_runs",
        "Small SAEs trained from one stream, and what they reach on held-out tokens.",
        {
            "experiment": column(pl.String, "grid: features x steps at one rate; rate: rates at a budget's optimum; equal_l0: "
                                 "batch_topk at the L0 of ReLU-L1", one_of(EXPERIMENTS)),
            "arm": column(pl.String, "Name of the run"),
            "architecture": column(pl.String, "Architecture", one_of(ARCHITECTURES)),
            "n_features": column(pl.Int32, "Features", pa.Check.ge(1)),
            "n_steps": column(pl.Int32, "Steps", pa.Check.ge(1)),
            "batch": column(pl.Int32, "Tokens per step", pa.Check.ge(1)),
            "learning_rate": column(pl.Float64, "Peak learning rate", pa.Check.gt(0)),
            "sparsity": column(pl.Float64, "k, or lambda of ReLU-L1 (of the activations as they are scaled)", pa.Check.gt(0)),
            "seed": column(pl.Int32, "Seed of the training", pa.Check.ge(0)),
            "flops": column(pl.Float64, "12 x width x features x tokens: dense products, forward and backward", pa.Check.gt(0)),
            "loss": _number("Mean squared error per held-out token, summed over dimensions, scaled space"),
            "explained_variance": _number("Explained variance of held-out tokens"),
            "l0": column(pl.Float64, "Active features per held-out token", pa.Check.ge(0)),
            "norm_ratio": _number("Mean norm of the reconstruction over that of the activation"),
            "alive_fraction": share("Features active on at least one of the held-out tokens"),
            "rule_f1": _number("Mean held-out F1 of token rules over a sample of features (grid only)", nullable=True),
            "rule_f1_shuffled": _number("The same with every rule given to another feature", nullable=True),
        },
        file="scaling_laws/scaling_runs.parquet", key=("experiment", "arm"),
    ),
    table(
        "scaling_laws",
        "Power laws against compute: quantity = coefficient x flops ^ exponent. `sae-pipeline suggest` reads them.",
        {
            "quantity": column(pl.String, "What grows or falls with compute", one_of(QUANTITIES)),
            "coefficient": _number("Coefficient; null where too few budgets have an optimum", nullable=True),
            "exponent": _number("Exponent", nullable=True),
            "exponent_low": _number("Lower end of its 95 % interval (documents and budgets resampled)", nullable=True),
            "exponent_high": _number("Upper end", nullable=True),
            "r_squared": _number("R² in logarithms", nullable=True),
            "n_budgets": count("Budgets at which the quantity was read"),
            "flops_low": _number("Smallest of them", nullable=True),
            "flops_high": _number("Largest of them", nullable=True),
            "batch": column(pl.Int32, "Tokens per step of the runs", pa.Check.ge(1)),
        },
        file="scaling_laws/scaling_laws.parquet", key=("quantity",),
    ),
)  # fmt: skip
