"""The measurements of this stage, each beside random directions (or other words' features) after the same selection."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_pipeline.resampling import paired_difference, unpaired_difference
from sae_pipeline.survey.attribution.statistics import Compared, compared
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.search.families import NOTE
from sae_pipeline.survey.search.known_words import SEARCHES
from sae_pipeline.survey.search.probes import MOST_K, Probed
from sae_pipeline.survey.thresholds import thresholds

DIRECTIONS = "random directions of the same densities, through the same selection"
FIGURE = "concept_families"


@dataclass(frozen=True)
class Results:
    """Everything that was measured. Pairs of arrays: features, random directions."""

    size: int
    searched: list[dict]  # rows of `concept_search_results`, and what `Searched.row` says besides
    words: list[dict]  # rows of `word_rows`
    n_known: int
    n_words: int
    probed: list[Probed]
    contrasts: list[np.ndarray]
    contrast_concept: np.ndarray  # of every pair, by number
    sorts: list[np.ndarray]
    few: dict[int, np.ndarray]  # k -> concepts x (features, random directions, dense probe)
    seed: int
    sha: str


def measurements(results: Results) -> list[Measurement]:
    """All of them."""
    return [*_words(results), *_told_apart(results), *_few(results), *_sparse(results), safety(results), safety_outcomes(results)]


def _measurement(
    results: Results, name: str, metric: str, found: Compared | None, attempted: int, control: str, rows: str, **more
) -> Measurement:
    columns: dict[str, Any] = {"value": None} if found is None else found.columns
    return Measurement(
        name, metric, n_scored=found.n if found else 0, n_attempted=attempted, size=results.size, control=control,
        files_sha=results.sha, rows=rows, **(columns | more),
    )  # fmt: skip


def _compared(value: np.ndarray, control: np.ndarray, seed: int, at_least: int = 1) -> Compared | None:
    return compared(value, control, seed) if len(value) >= at_least else None


def _words(results: Results) -> list[Measurement]:
    rows = []
    for method in SEARCHES:
        of_method = [row for row in results.words if row["method"] == method]
        own, others = (np.array([float(row[name]) for row in of_method]) for name in ("found", "others_found"))
        rows.append(_measurement(
            results, f"hit_at_10_{method}", "share of words whose known feature is among the first ten found",
            _compared(own, others, results.seed, 2), results.n_words, "features of the other words", "concept_search_words",
            status="ok" if len(own) >= 2 else "too_few_examples", ceiling_metric="words with a known feature",
            ceiling=float(results.n_known), ceiling_threshold=float(thresholds().known_words_needed),
        ))  # fmt: skip
    return rows


def _told_apart(results: Results) -> list[Measurement]:
    """Pairs of one concept go together, so concepts are resampled. Features and directions sort draws of their own."""
    both = ~np.isnan(results.contrasts[0]) & ~np.isnan(results.contrasts[1])
    value, control, concept = (each[both] for each in (*results.contrasts, results.contrast_concept))
    own, other = results.sorts
    return [
        _measurement(
            results, "contrastive_accuracy",
            "units active on one text of a pair whose training tokens say which one, mean over pairs; chance 0.5",
            _by_concept(value, control, concept, results.seed) if len(value) else None, len(both), DIRECTIONS,
            "concept_search_results",
            **(
                {"why": f"{len(np.unique(concept))} concepts are resampled, each with all its pairs"}
                if len(value) else too_few("pairs that units tell apart", 0, 1)
            ),
        ),
        _measurement(
            results, "sort_accuracy", "held-out tokens that training tokens sort to the right one of two units; chance 0.5",
            _apart(own, other, results.seed) if len(own) and len(other) else None, len(own), DIRECTIONS, "concept_search_results",
            **(
                {"n_control": len(other), "why": "features and directions have draws of their own: both are resampled"}
                if len(own) and len(other) else too_few("held-out tokens to sort", 0, 1)
            ),
        ),
    ]  # fmt: skip


def _by_concept(value: np.ndarray, control: np.ndarray, concept: np.ndarray, seed: int) -> Compared:
    """Means over pairs, and of their paired difference. Concepts are resampled with all their pairs."""
    mean, *own, n_concepts = paired_difference(value, np.zeros(len(value)), concept, seed)
    _, *apart, _ = paired_difference(value, control, concept, seed)
    (low, high), (difference_low, difference_high) = (own, apart) if n_concepts > 1 else ((None, None), (None, None))
    return Compared(mean, low, high, float(control.mean()), difference_low, difference_high, len(value))


def _apart(value: np.ndarray, control: np.ndarray, seed: int) -> Compared:
    drawn = unpaired_difference(value, control, seed)
    return Compared(drawn.value, drawn.value_low, drawn.value_high, drawn.control, drawn.low, drawn.high, len(value))


def _few(results: Results) -> list[Measurement]:
    rows = []
    for k, accuracy in results.few.items():
        dense = f"; a dense probe of the residual reaches {accuracy[:, 2].mean():.3f}"
        name = "few_feature_classifier" if k == max(results.few) else f"few_feature_classifier_k_{k}"
        rows.append(_measurement(
            results, name, f"held-out accuracy of a classifier over {k} features, mean over concepts",
            _compared(accuracy[:, 0], accuracy[:, 1], results.seed), len(accuracy), DIRECTIONS, "concept_search_results",
            why=f"k = {k}{dense}",
        ))  # fmt: skip
    return rows


def _sparse(results: Results) -> list[Measurement]:
    rows, needed = [], thresholds().probe_sets_needed
    for k in sorted({row.k for row in results.probed}, reverse=True) or [MOST_K]:
        of_k = [row for row in results.probed if row.k == k]
        gap = np.array([[row.features - row.dense, row.directions - row.dense] for row in of_k]).reshape(-1, 2)
        name = "sparse_probe_minus_dense" if k == MOST_K else f"sparse_probe_minus_dense_k_{k}"
        rows.append(_measurement(
            results, name, f"held-out accuracy of {k} features minus that of a dense probe, mean over data sets",
            _compared(gap[:, 0], gap[:, 1], results.seed, needed), len(of_k), DIRECTIONS, "concept_search_probes",
            why="; ".join(f"{row.name} {row.features:.3f} against {row.dense:.3f}" for row in of_k) or None,
            **({} if len(of_k) >= needed else too_few("data sets with enough tokens of both classes", len(of_k), needed)),
        ))  # fmt: skip
    return rows


def safety(results: Results) -> Measurement:
    """Row 61: families with a feature, beside those that random directions tell apart as well."""
    rows = [row for row in results.searched if row["is_safety"] and row["is_choice"]]
    found = sum(row["verdict"] == "found" for row in rows)
    carried = sum(row["probe_auroc"] >= thresholds().carried_auroc for row in rows)
    could = found + len(rows) - carried
    # What the model does not carry excuses a miss only where it could have made the difference.
    excused = len(rows) < thresholds().safety_families or found < thresholds().safety_families <= could
    ceiling = (float(carried), float(thresholds().safety_families)) if excused else (None, None)
    told = f"a dense probe tells {carried} of {len(rows)} apart"
    return Measurement(
        "safety_families_found",
        f"safety families with a feature of held-out AUROC {thresholds().found_auroc} or more that beats its null",
        float(found), carried, len(rows), results.size, control=f"families in which {DIRECTIONS} reach that AUROC",
        control_value=float(sum(row["null_auroc"] >= thresholds().found_auroc for row in rows)),
        ceiling_metric="safety families that a dense probe tells apart" if excused else None,
        ceiling=ceiling[0], ceiling_threshold=ceiling[1], files_sha=results.sha, rows="concept_search_results", figure=FIGURE,
        why="; ".join([told, *(f"{row['concept']}: {row['verdict']}, AUROC {row['auroc']:.2f}" for row in rows), NOTE]),
    )  # fmt: skip


def safety_outcomes(results: Results) -> Measurement:
    """Row 72: nobody was made safer here. Without a feature to act on there is nothing to try; with one, this is a miss."""
    found = sum(row["verdict"] == "found" for row in results.searched if row["is_safety"] and row["is_choice"])
    return Measurement(
        "safety_outcomes_measured", "harms whose rate was measured before and after acting on a feature", 0.0, 0, found,
        results.size, ceiling_metric="safety families with a feature that beats its null (row 61)", ceiling=float(found),
        ceiling_threshold=1.0, files_sha=results.sha, rows="concept_search_results", figure=FIGURE,
        why="it takes a harm that the model does on request, a feature behind it, and the harm's rate with and without acting on "
        "that feature, beside other means of prevention",
    )  # fmt: skip
