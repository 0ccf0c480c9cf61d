-- One row per feature of every size, with everything that the table of features is searched, filtered and sorted by.
create table memory.main.feature_list as
with
explained as (
    select size, feature, text, kind, method, model, status
    from analysis.explanations
    where unit = 'sae_feature' and control = 'none' and not plumbing
    qualify row_number() over (partition by size, feature order by (status = 'ok') desc, method, model) = 1
),
-- Interval means first: windows are drawn per interval, and every interval weighs the same.
cells as (
    select size, feature, method, control, interval, avg(score) as score, count(score) as n_scored, max(model) as model
    from analysis.believed_specificity_scores
    where feature is not null and kind = 'active' and control in ('none', 'shuffled')
    group by all
),
scored as (
    select size, feature, method,
        avg(score) filter (control = 'none') as specificity,
        avg(score) filter (control = 'shuffled') as specificity_shuffled,
        (sum(n_scored) filter (control = 'none'))::int as n_scored, max(model) as judge
    from cells
    group by size, feature, method
    -- Where a language model that passed its calibration judged as well, its scores are shown; methods are never averaged.
    qualify row_number() over (partition by size, feature order by sum(n_scored) = 0, max(model) is null, method) = 1
),
places as (
    select example.size, example.feature, document.source, document.language, count(*) as n
    from analysis.feature_examples example join analysis.documents document using (doc_id)
    where example.kind = 'top'
    group by all
),
skew as (
    select size, feature, arg_max(source, n) as top_source, (max(n) / sum(n))::double as top_source_share
    from (select size, feature, source, sum(n) as n from places group by all)
    group by all
),
languages as (
    select size, feature, arg_max(language, n) as top_language, (max(n) / sum(n))::double as top_language_share
    from (select size, feature, language, sum(n) as n from places where language is not null group by all)
    group by all
)
select features.*, text, kind, explained.method, model, status, specificity, specificity_shuffled, n_scored,
    scored.method as specificity_method, judge as specificity_judge, steered.passes, steered.concept_rate, steered.control_rate, steered.difference,
    steered.best_factor, top_source, top_source_share, top_language, top_language_share
from analysis.features
left join explained using (size, feature)
left join scored using (size, feature)
left join analysis.steering_features steered using (size, feature)
left join skew using (size, feature)
left join languages using (size, feature)
order by size, feature;
