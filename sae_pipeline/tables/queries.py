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
        "SELECT links.parent_size, links.parent, any_value(own.text) AS meaning, links.child_size, count(*) AS n_children,\n"
        "    list(child.text ORDER BY links.cosine DESC)[1:6] AS nearest_children\n"
        "FROM feature_links links\n"
        "LEFT JOIN explanations own ON own.size = links.parent_size AND own.feature = links.parent\n"
        "    AND own.unit = 'sae_feature' AND own.method = 'token-stats'\n"
        "LEFT JOIN explanations child ON child.size = links.child_size AND child.feature = links.child\n"
        "    AND child.unit = 'sae_feature' AND child.method = 'token-stats'\n"
        "WHERE links.parent_size = (SELECT min(parent_size) FROM feature_links)\n"
        "GROUP BY links.parent_size, links.parent, links.child_size ORDER BY n_children DESC, links.parent LIMIT $n",
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
