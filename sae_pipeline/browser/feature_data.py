"""Everything that is known about one feature, read from the analysis database."""

import re
from dataclasses import dataclass
from typing import Any

from sae_pipeline.browser.database import Cursor, Row
from sae_pipeline.browser.parameters import Refused
from sae_pipeline.report.tokens import readable, shown_tokens

TABLES = (  # raw rows as JSON, table by table
    "features", "explanations", "explanation_scores", "specificity_scores", "feature_intervals", "feature_logits",
    "feature_examples", "feature_neighbours", "feature_map", "steering_features", "steering_scores", "steering_generations",
)  # fmt: skip
_STEERING = ("steering_scores", "steering_generations")


@dataclass(frozen=True)
class FeatureKey:
    """Size of the SAE and index of the feature."""

    size: int
    feature: int

    @property
    def where(self) -> dict[str, Any]:
        """Query parameters."""
        return {"size": self.size, "feature": self.feature}


def parsed_key(text: str) -> FeatureKey | None:
    """`4096/17` as a key, None for anything else."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
    return FeatureKey(int(found[1]), int(found[2])) if found else None


def existing_key(cursor: Cursor, text: str) -> FeatureKey | None:
    """The feature that a visitor named, None for an empty text. Raises `Refused` when there is no such feature."""
    if not text.strip():
        return None
    key = parsed_key(text)
    if key is None or statistics(cursor, key) is None:
        raise Refused(f"There is no feature {text[:40]!r}; write size/feature, for example 4096/17.")
    return key


def raw_rows(cursor: Cursor, key: FeatureKey) -> dict[str, list[Row]]:
    """The rows of every table that speak of the feature."""
    return {table: cursor.rows(sql(table), **key.where) for table in TABLES}


def sql(table: str) -> str:
    """The query for one table; `$size` and `$feature` are parameters."""
    column = "target_feature" if table in _STEERING else "feature"
    return f"select * from {table} where size = $size and {column} = $feature order by all"


def copyable_sql(key: FeatureKey) -> str:
    """A query to paste into any DuckDB client."""
    where = f"size = {key.size} and feature = {key.feature}"
    return f"select * from feature_examples\nwhere {where}\norder by kind desc, interval desc, rank;"


def statistics(cursor: Cursor, key: FeatureKey) -> Row | None:
    """The row of `features`, None when there is no such feature."""
    return cursor.row("select * from features where size = $size and feature = $feature", **key.where)


def explanations(cursor: Cursor, key: FeatureKey) -> list[Row]:
    """The feature's own explanations, one per method, and why there is none where there is none."""
    return cursor.rows(
        "select text, kind, method || if(plumbing, ' (plumbing)', '') as method, model, status, n_examples, cost_usd"
        " from explanations"
        " where size = $size and feature = $feature and control = 'none' order by (status = 'ok') desc, method, model",
        **key.where,
    )


def examples(cursor: Cursor, key: FeatureKey, maximum: float) -> tuple[list[Row], list[Row]]:
    """(top examples, [{"interval", "n": {split: population}, "examples"}] from strong to weak), with tokens ready to show.

    Scores are the matched specificity scores of the same window, where it was scored.
    """
    found = cursor.rows(
        "select kind, split, interval, rank, token_index, center, tokens, activations, activation, source, language, title"
        " from feature_examples join (select doc_id, source, language, title from documents) using (doc_id)"
        " where size = $size and feature = $feature order by kind, interval desc, split desc, rank",
        **key.where,
    )
    population = cursor.rows(
        "select split, interval, n from feature_intervals where size = $size and feature = $feature", **key.where
    )
    for row in found:
        row["shown"] = shown_tokens(row["tokens"], row["activations"], maximum, row["center"])
        row["title"] = readable(row["title"], 80)
    top = sorted((row for row in found if row["kind"] == "top"), key=lambda row: row["rank"])
    by_interval = []
    for interval in range(10, 0, -1):
        counts = {row["split"]: row["n"] for row in population if row["interval"] == interval}
        chosen = [row for row in found if row["kind"] == "interval" and row["interval"] == interval]
        if counts or chosen:
            by_interval.append({"interval": interval, "n": counts, "examples": chosen})
    return top, by_interval


def histogram(cursor: Cursor, key: FeatureKey) -> list[Row]:
    """Activations per interval (both splits) with how the matched examples of the interval were scored: rows of
    {interval, n, method, s0, s1, s2, s3}; method is null where nothing was scored. A language model's scores are preferred."""
    return cursor.rows(
        """
        select interval, n, method, s0, s1, s2, s3
        from (
            select interval, sum(n)::bigint as n from feature_intervals
            where size = $size and feature = $feature group by interval
        )
        left join (
            select interval, min(method) as method, count_if(score = 0) as s0, count_if(score = 1) as s1,
                count_if(score = 2) as s2, count_if(score = 3) as s3
            from believed_specificity_scores
            where size = $size and feature = $feature and control = 'none' and kind in ('active', 'close_look')
                and status = 'ok'
                and method in (
                    select method from believed_specificity_scores where size = $size and feature = $feature and status = 'ok'
                    order by model is null, method limit 1
                )
            group by interval
        ) using (interval)
        order by interval
        """,
        **key.where,
    )


def logits(cursor: Cursor, key: FeatureKey) -> dict[str, list[Row]]:
    """Most promoted ("+") and most suppressed ("-") tokens."""
    found = cursor.rows(
        "select sign, token, effect from feature_logits where size = $size and feature = $feature order by sign, rank",
        **key.where,
    )
    return {sign: [row for row in found if row["sign"] == sign] for sign in "+-"}


def scores(cursor: Cursor, key: FeatureKey) -> list[Row]:
    """Means beside their controls: [{"metric", "method", "control", "value", "n_scored", "n_attempted", "why"}]."""
    return cursor.rows(
        """
        with failed as (select model from judge_calibration where size = $size and not passed)
        select 'specificity, 0 to 3' || case kind when 'active' then '' else ' (' || replace(kind, '_', ' ') || ')' end as metric,
            method || case when plumbing then ' (plumbing)' when model in (from failed) then ' (judge failed its calibration)'
                else '' end as method, control, avg(score) as value, count(score) as n_scored,
            count(*) as n_attempted, min(status) filter (status <> 'ok') as why
        from specificity_scores where size = $size and feature = $feature group by all
        union all
        select replace(metric, '_', ' '),
            method || case when plumbing then ' (plumbing)' when scorer in (from failed) then ' (judge failed its calibration)'
                else '' end, control, value,
            case when status = 'ok' then n else 0 end, n,
            case when status <> 'ok' then status end
        from explanation_scores where size = $size and feature = $feature
        order by metric, method, control
        """,
        **key.where,
    )


def steering(cursor: Cursor, key: FeatureKey) -> Row | None:
    """The summary row of a steered feature with `curve` (reporting half) and `texts` by factor; None when it was not tried."""
    summary = cursor.row("select * from steering_features where size = $size and feature = $feature", **key.where)
    if summary is None:
        return None
    summary["concept_terms"] = [readable(term, 40) for term in summary["concept_terms"]]
    summary["curve"] = cursor.rows(
        "select control, mode, factor, metric, value, low, high, n from steering_scores"
        " where size = $size and target_feature = $feature and half = 'report' and metric in ('concept_rate', 'fluency')"
        " and value is not null order by metric, control, mode, factor",
        **key.where,
    )
    summary["texts"] = cursor.rows(
        """
        select steered.mode, steered.factor, steered.prompt, baseline.completion as before, steered.completion as after,
            steered.concept_hit, steered.fluent
        from steering_generations steered
        left join steering_generations baseline
            on baseline.size = steered.size and baseline.control = 'baseline' and baseline.half = steered.half
            and baseline.prompt_id = steered.prompt_id and baseline.sample = steered.sample
            and (baseline.target_feature = steered.target_feature or baseline.target_feature is null)
        where steered.size = $size and steered.target_feature = $feature and steered.control = 'none' and steered.half = 'report'
        qualify row_number() over (partition by steered.mode, steered.factor order by steered.prompt_id, steered.sample) <= 2
        order by steered.mode desc, steered.factor, steered.prompt_id
        """,
        **key.where,
    )
    return summary


def short_explanations(cursor: Cursor, keys: list[FeatureKey]) -> dict[FeatureKey, str]:
    """One line per feature, for lists of links."""
    if not keys:
        return {}
    found = cursor.rows(
        """
        select size, feature, text, status, top_token
        from (select unnest($sizes) as size, unnest($features) as feature) wanted
        left join features using (size, feature)
        left join (
            select size, feature, text, status from explanations where control = 'none' and unit = 'sae_feature' and not plumbing
                and feature in (select unnest($features))
            qualify row_number() over (partition by size, feature order by (status = 'ok') desc, method, model) = 1
        ) using (size, feature)
        """,
        sizes=[key.size for key in keys], features=[key.feature for key in keys],
    )  # fmt: skip
    return {
        FeatureKey(row["size"], row["feature"]): readable(row["text"] or f"top token {row['top_token']!r}", 160) for row in found
    }
