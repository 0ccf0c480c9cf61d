"""Tables of `feature_families`: how features of several sizes and seeds are related."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import column, count, feature, share, size, table


def _cosine(description: str) -> pa.Column:
    return column(pl.Float32, description, pa.Check.in_range(-1, 1))


FAMILY_TABLES = (
    table(
        "feature_links",
        "Splitting: a feature of a larger SAE that points where one of a smaller SAE points and fires mostly where it fires.",
        {
            "parent_size": column(pl.Int32, "Size of the smaller SAE", pa.Check.ge(1)),
            "parent": column(pl.Int32, "Feature of the smaller SAE", pa.Check.ge(0)),
            "child_size": column(pl.Int32, "Size of the larger SAE", pa.Check.ge(1)),
            "child": column(pl.Int32, "Feature of the larger SAE", pa.Check.ge(0)),
            "cosine": _cosine("Cosine of the two decoder rows"),
            "parent_given_child": share("Share of the child's held-out activations on which the parent is active"),
            "child_given_parent": share("Share of the parent's held-out activations on which the child is active"),
            "n_child": count("Held-out activations of the child"),
        },
        file="feature_families/feature_links.parquet", key=("parent_size", "parent", "child_size", "child"),
    ),
    table(
        "feature_recurrence",
        "Live features of one size beside every smaller SAE and beside the same SAE trained from another seed.",
        {
            "size": size(),
            "feature": feature(),
            "smaller_cosine": _cosine("Largest cosine with any feature of any smaller SAE"),
            "second_seed_feature": column(pl.Int32, "Nearest feature of the second seed", pa.Check.ge(0)),
            "second_seed_cosine": _cosine("Its cosine"),
            "mutual": column(pl.Boolean, "Whether each is the other's nearest"),
            "chance_cosine": _cosine("Largest cosine with random directions of the second seed's second moments"),
            "chance_mutual": column(pl.Boolean, "Whether each is the other's nearest there"),
        },
        file="feature_families/feature_recurrence.parquet", key=("size", "feature"),
    ),
)  # fmt: skip
