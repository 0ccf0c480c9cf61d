"""Views of the analysis database: the answers that people ask for first.

Means over scored windows are taken within a unit before they are taken over units, and intervals are over units: windows of one
unit are not independent. Methods are never averaged together: `method` (and `model`) are columns.
"""

from dataclasses import dataclass

import duckdb


@dataclass(frozen=True)
class View:
    """A named query with the meaning of its rows."""

    description: str
    query: str


# What may stand in a headline: offline methods always, a judge's numbers only when it passed its calibration at that size.
_BELIEVED_SCORES = """
    (select scores.* from specificity_scores scores
        left join judge_calibration judge on judge.size = scores.size and judge.model = scores.model
     where not scores.plumbing and (scores.model is null or judge.passed))
"""

# One scored window under the right explanation beside the same window under another feature's explanation, then per unit.
_SPECIFICITY_UNITS = f"""
    with believed as {_BELIEVED_SCORES}
    select matched.size, matched.method, matched.model, matched.unit_id, matched.interval,
        avg(matched.score) as matched, avg(shuffled.score) as shuffled, count(*) as n_windows
    from believed matched
    join believed shuffled
        on shuffled.size = matched.size and shuffled.example_id = matched.example_id and shuffled.unit = matched.unit
        and shuffled.unit_id = matched.unit_id and shuffled.method = matched.method
        and shuffled.model is not distinct from matched.model
    where matched.unit = 'sae_feature' and matched.kind = 'active' and matched.control = 'none' and shuffled.control = 'shuffled'
        and matched.score is not null and shuffled.score is not null
    group by all
"""

_HALF_WIDTH = "1.96 * stddev_samp({0}) / sqrt(count({0}))"


def _interval(difference: str) -> str:
    half = _HALF_WIDTH.format(difference)
    return f"avg({difference}) as difference, avg({difference}) - {half} as low, avg({difference}) + {half} as high"


VIEWS: dict[str, View] = {
    "believed_specificity_scores": View(
        "Rows of `specificity_scores` that may stand in a headline: offline methods, and judges that passed their calibration at "
        "that size. Models too small to judge are left out.",
        f"select * from {_BELIEVED_SCORES}",
    ),
    "believed_explanation_scores": View(
        "Rows of `explanation_scores` that may stand in a headline: offline scorers, and judges that passed their calibration at "
        "that size. What a model too small to judge wrote or scored is left out.",
        """
        select scores.* from explanation_scores scores
            left join judge_calibration judge on judge.size = scores.size and judge.model = scores.scorer
        where not scores.plumbing and (scores.scorer in ('rule', 'minilm', 'sae') or judge.passed)
        """,
    ),
    "specificity_by_interval": View(
        "Mean specificity score (0-3) by activation interval: right explanation, shuffled explanation, and their difference on "
        "the same windows with a 95 % normal interval over features. One row per size, method, model and interval; judges that "
        "did not pass their calibration are left out.",
        f"""
        with units as ({_SPECIFICITY_UNITS})
        select size, method, model, interval, avg(matched) as matched, avg(shuffled) as shuffled,
            {_interval("matched - shuffled")}, count(*) as n_features, sum(n_windows)::bigint as n_windows
        from units group by size, method, model, interval order by size, method, model, interval
        """,
    ),
    "explainer_leaderboard": View(
        "Explainer (method) x scorer x control: mean of each metric over units with its 95 % bootstrap interval by unit, how "
        "many were scored of how many attempted, and for the features' own explanations (control `none`) the mean distance from "
        "the shuffled ones with its interval. What a judge scored is left out unless it passed its calibration at that size.",
        """
        select summary.* exclude (plumbing) from explanation_score_summaries summary
            left join judge_calibration judge on judge.size = summary.size and judge.model = summary.scorer
        where not summary.plumbing and (summary.scorer in ('rule', 'minilm', 'sae') or judge.passed)
        order by size, metric, scorer, method, control
        """,
    ),
    "best_steerable": View(
        "Steered features, clearest effect first: concept rate beside the random-feature control at the factor chosen on the "
        "other half of the prompts, and one before/after pair of the reported half (the first whose text names the concept). "
        "Where most texts at that factor are not fluent, others come first.",
        """
        with pairs as (
            select target.size, target.feature, steered.prompt, baseline.completion as before, steered.completion as after,
                row_number() over (
                    partition by target.size, target.feature
                    order by steered.concept_hit desc nulls last, steered.fluent desc nulls last,
                        steered.prompt_id, steered.sample
                ) as place
            from steering_features target
            join steering_generations steered
                on steered.size = target.size and steered.target_feature = target.feature and steered.control = 'none'
                and steered.mode = 'clamp' and steered.half = 'report' and steered.factor = target.best_factor
            join steering_generations baseline
                on baseline.size = steered.size and baseline.control = 'baseline' and baseline.half = 'report'
                and baseline.prompt_id = steered.prompt_id and baseline.sample = steered.sample
                and coalesce(baseline.target_feature, steered.target_feature) = steered.target_feature
        )
        select size, feature, (
                select text from explanations
                where explanations.size = target.size and explanations.feature = target.feature and control = 'none'
                    and status = 'ok' and not plumbing
                order by method, model limit 1
            ) as explanation,
            selected_by, concept_terms, density, best_factor, sweet_low, sweet_high,
            concept_rate, control_rate, ratio, difference, low, high, n, passes,
            fluency, prompt, before, after
        from steering_features target left join (select * from pairs where place = 1) using (size, feature)
        left join (
            select size, target_feature as feature, factor as best_factor, value as fluency from steering_scores
            where control = 'none' and mode = 'clamp' and half = 'report' and metric = 'fluency'
        ) using (size, feature, best_factor)
        -- A text that repeats one word names the concept, too.
        order by passes and coalesce(fluency >= 0.5, true) desc, passes desc, difference desc nulls last, size, feature
        """,
    ),
    "feature_family_members": View(
        "Families: every feature of the smallest SAE that splits, with its children in each larger one and what both stand for; "
        "largest families first.",
        """
        with labels as (
            select size, feature, min_by(text, method || coalesce(model, '')) as label from explanations
            where unit = 'sae_feature' and control = 'none' and status = 'ok' and not plumbing group by size, feature
        )
        select parent_size, parent, parents.label as parent_label, one.density as parent_density, child_size, child,
            children.label as child_label, other.density as child_density, cosine, parent_given_child, child_given_parent,
            count(*) over (partition by parent) as n_children
        from feature_links
            join features one on one.size = parent_size and one.feature = parent
            join features other on other.size = child_size and other.feature = child
            left join labels parents on parents.size = parent_size and parents.feature = parent
            left join labels children on children.size = child_size and children.feature = child
        where parent_size = (select min(parent_size) from feature_links)
        order by n_children desc, parent, child_size, cosine desc, child
        """,
    ),
    "leaderboard": View(
        "One row per size (and scoring method): reconstruction, spliced loss, living features, median rule F1 and mean "
        "specificity of right and shuffled explanations, and how many of the steered features pass.",
        f"""
        with living as (
            select size, count(*) filter (alive) as n_alive, median(density) filter (alive) as median_density
            from features group by size
        ),
        rules as (
            select size, method as explanation_method, median(value) filter (control = 'none') as rule_f1,
                median(value) filter (control = 'shuffled') as rule_f1_shuffled
            from explanation_scores where unit = 'sae_feature' and metric = 'rule_f1' group by size, method
        ),
        unit_means as (
            select size, method, model, unit_id, avg(matched) as matched, avg(shuffled) as shuffled
            from ({_SPECIFICITY_UNITS}) group by size, method, model, unit_id
        ),
        specificity as (
            select size, method as score_method, model as score_model, avg(matched) as specificity,
                avg(shuffled) as specificity_shuffled, count(*) as n_scored
            from unit_means group by size, method, model
        ),
        steered as (
            select size, count(*) as n_steered, count(*) filter (passes) as n_passing from steering_features group by size
        )
        select size, architecture, l0, explained_variance, explained_variance_unmasked, ce_recovered_zero, ce_recovered_mean,
            delta_ce, kl, alive_fraction, n_alive, median_density, n_tokens_trained, seconds, explanation_method, rule_f1,
            rule_f1_shuffled, score_method, score_model, specificity, specificity_shuffled, n_scored, n_steered, n_passing
        from sae_metrics
            left join living using (size) left join rules using (size) left join specificity using (size)
            left join steered using (size)
        order by size, explanation_method, score_method, score_model
        """,
    ),
}


def create_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create every view, with its description as comment, in a database that has the tables."""
    for name, view in VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {view.query}").fetchall()
        connection.execute(f"COMMENT ON VIEW {name} IS {sql_text(view.description)}").fetchall()


def sql_text(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
