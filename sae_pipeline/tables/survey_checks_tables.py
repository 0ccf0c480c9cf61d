"""Tables of `neighbourhood_checks`: whether near features have related labels."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import column, feature, one_of, size, table


def _similarity(description: str) -> pa.Column:
    return column(pl.Float32, description, pa.Check.in_range(-1, 1))


def _other(description: str) -> pa.Column:
    return column(pl.Int32, description, pa.Check.ge(0))


CHECK_TABLES = (
    table(
        "neighbourhood_pairs",
        "Pairs of explained features of one size: cosine of their decoder rows beside similarity of their labels.",
        {
            "size": size(),
            "feature": feature(),
            "other": _other("The other feature"),
            "kind": column(pl.String, "A neighbour of uniformly drawn rank, or random", one_of(("neighbour", "random"))),
            "cosine": _similarity("Cosine of the two decoder rows"),
            "label_similarity": _similarity("Cosine of the sentence embeddings of their explanations"),
            "dealt_similarity": _similarity("The same with explanations dealt out to other features"),
        },
        file="neighbourhood_checks/neighbourhood_pairs.parquet", key=("size", "feature", "kind"),
    ),
    table(
        "odd_one_out",
        "Questions: a feature, its two nearest ones and a stranger; is the stranger the one whose label fits least?",
        {
            "size": size(),
            "feature": feature(),
            "first": _other("Its nearest explained feature"),
            "second": _other("The second nearest"),
            "stranger": _other("A random feature that is none of its neighbours"),
            "found": column(pl.Boolean, "Whether label similarity finds the stranger"),
            "found_dealt": column(pl.Boolean, "Whether it does with explanations dealt out to other features"),
        },
        file="neighbourhood_checks/odd_one_out.parquet", key=("size", "feature"),
    ),
)  # fmt: skip
