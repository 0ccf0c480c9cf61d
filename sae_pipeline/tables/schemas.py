"""All table schemas by name, and the two functions that hold data to them.

`check` at every stage boundary; `conform` for writers who have the right values in the wrong integer width or column order.
"""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.attribution_tables import ATTRIBUTION_TABLES
from sae_pipeline.tables.columns import Table
from sae_pipeline.tables.data_tables import DATA_TABLES
from sae_pipeline.tables.feature_tables import FEATURE_TABLES
from sae_pipeline.tables.interpretation_tables import INTERPRETATION_TABLES
from sae_pipeline.tables.record_tables import RECORD_TABLES
from sae_pipeline.tables.sae_tables import SAE_TABLES
from sae_pipeline.tables.search_tables import SEARCH_TABLES
from sae_pipeline.tables.steering_tables import STEERING_TABLES
from sae_pipeline.tables.survey_case_tables import CASE_TABLES
from sae_pipeline.tables.survey_checks_tables import CHECK_TABLES
from sae_pipeline.tables.survey_families_tables import FAMILY_TABLES
from sae_pipeline.tables.survey_nulls_tables import NULL_TABLES
from sae_pipeline.tables.survey_scaling_tables import SCALING_TABLES
from sae_pipeline.tables.survey_steering_tables import SURVEY_STEERING_TABLES
from sae_pipeline.tables.survey_tables import SURVEY_TABLES
from sae_pipeline.tables.survey_unit_tables import SURVEY_UNIT_TABLES

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        *DATA_TABLES,
        *SAE_TABLES,
        *FEATURE_TABLES,
        *INTERPRETATION_TABLES,
        *STEERING_TABLES,
        *SURVEY_TABLES,
        *ATTRIBUTION_TABLES,
        *SURVEY_STEERING_TABLES,
        *SEARCH_TABLES,
        *NULL_TABLES,
        *SCALING_TABLES,
        *SURVEY_UNIT_TABLES,
        *FAMILY_TABLES,
        *CHECK_TABLES,
        *CASE_TABLES,
        *RECORD_TABLES,
    )
}
SCHEMAS: dict[str, pa.DataFrameSchema] = {name: table.schema for name, table in TABLES.items()}


def check(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Hold a frame to the schema of table `name`; returns it. Raises `pandera.errors.SchemaErrors` with every violation.

    Only collected frames: on a LazyFrame pandera would look at the columns and not at the values.
    """
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"{name}: check wants a collected polars.DataFrame, got {type(frame).__name__}")
    # Fixed-width lists (`Array`) are checked as lists: their width depends on the study's context.
    fixed = {column: pl.List(dtype.inner) for column, dtype in frame.schema.items() if isinstance(dtype, pl.Array)}
    SCHEMAS[name].validate(frame.cast(fixed) if fixed else frame, lazy=True)  # pyright: ignore[reportArgumentType]
    return frame


def conform(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Cast to the exact types of table `name`, order its columns and check.

    A value that does not fit (a NaN as an integer, an overflow) raises `polars.exceptions.InvalidOperationError`; missing and
    unknown columns raise `pandera.errors.SchemaErrors`, as `check` does.
    """
    wanted = polars_schema(name)
    ordered = [column for column in wanted if column in frame.columns]
    unknown = [column for column in frame.columns if column not in wanted]
    cast = frame.select(*ordered, *unknown).cast({column: wanted[column] for column in ordered})  # pyright: ignore[reportArgumentType]
    return check(name, cast)


def polars_schema(name: str) -> dict[str, pl.DataType]:
    """{column: polars type} of a table, in the documented order."""
    return {column: spec.dtype.type for column, spec in SCHEMAS[name].columns.items()}


def empty(name: str) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema=polars_schema(name))
