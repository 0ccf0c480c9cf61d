"""The size comparison as one tidy table: every mean with how many were scored and attempted, every score beside its control.

Methods are never averaged together, and neither are controls: both are columns.
"""

import duckdb
import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import CONTROLS

SCHEMA = pa.DataFrameSchema(
    {
        "size": pa.Column(pl.Int32, pa.Check.ge(1)),
        "subject": pa.Column(pl.String, pa.Check.isin(["sae", "features", "explanations", "specificity", "steering"])),
        "metric": pa.Column(pl.String),
        "method": pa.Column(pl.String),
        "control": pa.Column(pl.String, pa.Check.isin(list(CONTROLS))),
        "value": pa.Column(pl.Float64, nullable=True),
        "low": pa.Column(pl.Float64, nullable=True),
        "high": pa.Column(pl.Float64, nullable=True),
        "n_scored": pa.Column(pl.Int64, pa.Check.ge(0)),
        "n_attempted": pa.Column(pl.Int64, pa.Check.ge(0)),
        "counted": pa.Column(pl.String, pa.Check.isin(["tokens", "features", "units", "examples"])),
    },
    strict=True,
    unique=["size", "subject", "metric", "method", "control"],
)

SAE_METRICS = {  # column of sae_metrics -> column that counts its tokens
    "explained_variance": "n_tokens_held_out", "explained_variance_unmasked": "n_tokens_held_out",
    "explained_variance_standardized": "n_tokens_held_out", "l0": "n_tokens_held_out", "mse": "n_tokens_held_out",
    "alive_fraction": "n_tokens_held_out", "masked_fraction": "n_tokens_held_out", "ce_recovered_zero": "n_tokens_spliced",
    "ce_recovered_mean": "n_tokens_spliced", "delta_ce": "n_tokens_spliced", "kl": "n_tokens_spliced",
}  # fmt: skip

_SAE = " union all ".join(
    f"select size, 'sae' as subject, '{metric}' as metric, 'measured' as method, 'none' as control, {metric} as value,"
    f" null as low, null as high, {n} as n_scored, {n} as n_attempted, 'tokens' as counted from sae_metrics"
    for metric, n in SAE_METRICS.items()
)

_FEATURES = """
    select size, 'features', 'median_density', 'measured', 'none', median(density) filter (alive), null, null,
        count(*) filter (alive), count(*), 'features'
    from features group by size
    union all
    select size, 'explanations', 'share_' || coalesce(kind, 'unknown'), method, control,
        count(*) / sum(count(*)) over (partition by size, method, control), null, null,
        count(*), sum(count(*)) over (partition by size, method, control), 'units'
    from explanations where unit = 'sae_feature' and status = 'ok' and not plumbing group by size, method, control, kind
"""

_EXPLANATIONS = """
    select size, 'explanations', metric, method, control, avg(value),
        avg(value) - 1.96 * stddev_samp(value) / sqrt(count(value)), avg(value) + 1.96 * stddev_samp(value) / sqrt(count(value)),
        count(value), count(*), 'units'
    from believed_explanation_scores group by size, metric, method, control
"""

# Windows are drawn uniformly inside each activation interval, so the mean over intervals is taken first, then over units: each
# unit and each interval weighs the same. The standard error is over units, not over windows of the same unit.
_SPECIFICITY = """
    with cells as (
        select size, method, control, kind, unit, unit_id, interval,
            avg(score) as score, avg((score = 3)::int) as share_3, count(score) as n_scored, count(*) as n_attempted
        from believed_specificity_scores
        group by all
    ), units as (
        select size, method, control, kind, unit, unit_id,
            avg(score) as score, avg(share_3) as share_3, sum(n_scored) as n_scored, sum(n_attempted) as n_attempted
        from cells group by all
    )
    select size, 'specificity', case kind when 'active' then 'mean_score' else 'mean_score_' || kind end, method, control,
        avg(score), avg(score) - 1.96 * stddev_samp(score) / sqrt(count(score)),
        avg(score) + 1.96 * stddev_samp(score) / sqrt(count(score)), sum(n_scored), sum(n_attempted), 'examples'
    from units group by size, method, control, kind
    union all
    select size, 'specificity', 'share_of_score_3', method, control,
        avg(share_3), avg(share_3) - 1.96 * stddev_samp(share_3) / sqrt(count(share_3)),
        avg(share_3) + 1.96 * stddev_samp(share_3) / sqrt(count(share_3)), sum(n_scored), sum(n_attempted), 'examples'
    from units where kind = 'active' group by size, method, control
"""

_STEERING = """
    select size, 'steering', 'passes', 'measured', 'none', avg(passes::int), null, null, count(best_factor), count(*), 'features'
    from steering_features group by size
    union all
    select size, 'steering', 'concept_rate', 'measured', 'none', avg(concept_rate), null, null,
        count(concept_rate), count(*), 'features'
    from steering_features group by size
    union all
    select size, 'steering', 'concept_rate', 'measured', 'random_feature', avg(control_rate), null, null,
        count(control_rate), count(*), 'features'
    from steering_features group by size
"""


def size_comparison(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """One row per (size, subject, metric, method, control) of everything that can be compared between sizes.

    `low`, `high`: 95 % normal interval over units where there are several; `n_scored` of `n_attempted` of what `counted` names.
    """
    columns = ", ".join(SCHEMA.columns)
    parts = " union all ".join(
        f"select * from ({query}) t({columns})" for query in (_SAE, _FEATURES, _EXPLANATIONS, _SPECIFICITY, _STEERING)
    )
    types = {
        "size": pl.Int32,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n_scored": pl.Int64,
        "n_attempted": pl.Int64,
    }
    frame = connection.sql(parts).pl().cast(types)  # pyright: ignore[reportArgumentType]
    return SCHEMA.validate(frame.sort("size", "subject", "metric", "method", "control"))  # pyright: ignore[reportReturnType]
