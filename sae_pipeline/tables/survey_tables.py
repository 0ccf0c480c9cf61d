"""Tables of the survey, made after the main run. In a database that was built before it they are empty."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import column, feature, size, table

SURVEY_TABLES = (
    table(
        "feature_neighbours",
        "The nearest features of every feature, within its size and in every other one, by cosine of decoder rows. Exact.",
        {
            "size": size(),
            "feature": feature(),
            "neighbour_size": column(pl.Int32, "Size of the SAE in which neighbours were looked for", pa.Check.ge(1)),
            "rank": column(pl.Int16, "1 is the nearest", pa.Check.ge(1)),
            "neighbour": column(pl.Int32, "Feature index of the neighbour; never the feature itself", pa.Check.ge(0)),
            "cosine": column(pl.Float32, "Cosine of the two decoder rows", pa.Check.in_range(-1, 1)),
        },
        file="neighbourhoods/feature_neighbours.parquet", key=("size", "feature", "neighbour_size", "rank"),
    ),
    table(
        "feature_map",
        "Where a feature lies on the map: UMAP of the decoder rows of all sizes together. For display; distances mean little.",
        {
            "size": size(),
            "feature": feature(),
            "x": column(pl.Float32, "Horizontal place, no unit", pa.Check.in_range(-1e4, 1e4)),
            "y": column(pl.Float32, "Vertical place, no unit", pa.Check.in_range(-1e4, 1e4)),
        },
        file="neighbourhoods/feature_map.parquet", key=("size", "feature"),
    ),
)  # fmt: skip
