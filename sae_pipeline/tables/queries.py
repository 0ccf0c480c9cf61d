"""Read-only queries to start from; docs/tables.md prints them, a test runs them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Query:
    """A question and its SQL. Parameters are written `$name`; `defaults` gives their values in the documentation."""

    question: str
    sql: str
    defaults: dict[str, Any]


QUERIES: dict[str, Query] = {
    "sizes": Query(
        "How good is each SAE?",
        "SELECT size, l0, explained_variance, ce_recovered_zero, ce_recovered_mean, delta_ce, alive_fraction\n"
        "FROM sae_metrics ORDER BY size",
        {},
    ),
    "best_steerable": Query(
        "Which features steer best, and what does it look like?",
        "SELECT size, feature, concept_terms, best_factor, concept_rate, control_rate, prompt, before, after\n"
        "FROM best_steerable LIMIT $n",
        {"n": 5},
    ),
    "families": Query(
        "Which features of the smallest SAE split into most, and into what?",
        "SELECT parent_size, parent, any_value(parent_label) AS stands_for, any_value(n_children) AS n_children,\n"
        "    list(child_label ORDER BY cosine DESC)[1:6] AS nearest_children\n"
        "FROM feature_family_members GROUP BY parent_size, parent ORDER BY n_children DESC, parent LIMIT $n",
        {"n": 10},
    ),
    "feature": Query(
        "What does one feature respond to?",
        "SELECT rank, activation, source, title, array_to_string(tokens, '') AS text\n"
        "FROM feature_examples JOIN documents USING (doc_id)\n"
        "WHERE size = $size AND feature = $feature AND kind = 'top' ORDER BY rank",
        {"size": 1024, "feature": 0},
    ),
    "find": Query(
        "Which features are explained by a word?",
        "SELECT size, feature, text FROM explanations\n"
        "WHERE unit = 'sae_feature' AND text ILIKE '%' || $word || '%' ORDER BY size, feature",
        {"word": "island"},
    ),
    "specificity": Query(
        "Are explanations more specific than shuffled ones, at every activation level?",
        "SELECT size, method, interval, matched, shuffled, difference, low, high, n_features FROM specificity_by_interval",
        {},
    ),
    "time": Query(
        "Where did the time go?",
        "SELECT stage, size, seconds FROM lineage ORDER BY seconds DESC",
        {},
    ),
}
