"""Checklist row 24: does a feature fire on independent text about its concept?

A feature's terms are the words that hold its training activations. The texts are held-out windows around an occurrence of a term,
found by the word alone, none of them among the feature's stored examples. Recall: share of them in which the feature is active.
The control looks for another feature's terms.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units
from sae_pipeline.interpret.windows import REACH, derangement
from sae_pipeline.resampling import bootstrap
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds
from sae_pipeline.tables.schemas import conform

N_TERMS, MIN_MASS, MIN_DOCUMENTS, MAX_TEXTS = 5, 0.05, 3, 100


def terms_of(tokens: TokenTable, units: Units, column: int) -> np.ndarray:
    """Indices into `tokens.words`: up to five words, each with 5 % of the training activation and in three documents."""
    token_index, value = units.train.of(column)
    word = tokens.word_of_N[token_index]
    inside = word >= 0
    if not inside.any():
        return np.empty(0, np.int64)
    words, inverse = np.unique(word[inside], return_inverse=True)
    mass = np.bincount(inverse, weights=value[inside]) / value.sum()
    pairs = np.unique(np.stack([inverse, tokens.doc_id_N[token_index[inside]]]), axis=1)
    documents = np.bincount(pairs[0], minlength=len(words))
    fit = np.flatnonzero((mass >= MIN_MASS) & (documents >= MIN_DOCUMENTS))
    return words[fit[np.argsort(-mass[fit], kind="stable")][:N_TERMS]]


def recall(
    tokens: TokenTable, units: Units, column: int, terms: np.ndarray, shown: np.ndarray, random: np.random.Generator
) -> tuple[float, int]:
    """(share of held-out windows around a term in which the feature is active, number of windows). `shown`: tokens of the
    feature's stored examples; windows that hold one of them are left out."""
    at = np.flatnonzero(np.isin(tokens.word_end_N, terms) & tokens.test_N)
    if len(shown):
        at = at[np.abs(at[:, None] - shown[None]).min(axis=1) > REACH]
    at = np.sort(random.permutation(at)[:MAX_TEXTS])
    if not len(at):
        return float("nan"), 0
    active, _ = units.held_out.of(column)
    block = at - at % tokens.context
    first, last = np.maximum(at - REACH, block), np.minimum(at + REACH, block + tokens.context - 1)
    return float((np.searchsorted(active, last, side="right") > np.searchsorted(active, first)).mean()), len(at)


def sensitivity_rows(
    tokens: TokenTable, units: Units, columns: Sequence[int], shown: dict[int, np.ndarray], size: int, seed: int
) -> pl.DataFrame:
    """Table `feature_sensitivity`: one row per feature that has terms."""
    terms = {column: terms_of(tokens, units, column) for column in columns}
    named = [column for column in columns if len(terms[column])]
    other = derangement(named, seed) if len(named) > 1 else {}
    rows, nothing, least = [], np.empty(0, np.int64), thresholds().recall_min_texts
    for column in named:
        random = np.random.default_rng([seed, column])
        value, n_texts = recall(tokens, units, column, terms[column], shown.get(column, nothing), random)
        wrong, n_wrong = recall(tokens, units, column, terms[other.get(column, column)], shown.get(column, nothing), random)
        rows.append({
            "size": size, "feature": column, "terms": ", ".join(tokens.words[term] for term in terms[column]), "n_texts": n_texts,
            "recall": value if n_texts >= least else None, "control_recall": wrong if n_wrong >= least else None,
        })  # fmt: skip
    return conform(
        "feature_sensitivity", pl.DataFrame(rows, schema_overrides={"recall": pl.Float64, "control_recall": pl.Float64})
    )


def sensitivity(rows: pl.DataFrame, n_attempted: int, size: int, seed: int) -> Iterator[Measurement]:
    """Median recall over the features that have enough texts, with another feature's terms beside it."""
    scored = rows.drop_nulls(["recall", "control_recall"])
    own, wrong = scored["recall"].to_numpy(), scored["control_recall"].to_numpy()
    metric = "median share of held-out windows around a feature's terms in which it is active"
    if not len(own):
        yield Measurement(
            "sensitivity_on_independent_text", metric, None, 0, n_attempted, size,
            **too_few(f"features with terms and {thresholds().recall_min_texts} held-out windows with them", 0, 1),
        )  # fmt: skip
        return
    low, high = bootstrap(lambda drawn: float(np.median(own[drawn])), len(own), seed)
    difference = bootstrap(lambda drawn: float(np.median(own[drawn]) - np.median(wrong[drawn])), len(own), seed)
    yield Measurement(
        "sensitivity_on_independent_text", metric, float(np.median(own)), len(own), n_attempted, size, low=low, high=high,
        control="another feature's terms", control_value=float(np.median(wrong)), difference_low=difference[0],
        difference_high=difference[1], rows="feature_sensitivity",
        why=f"terms from train activations; windows of {2 * REACH + 1} tokens, none of them a stored example of the feature",
    )  # fmt: skip
