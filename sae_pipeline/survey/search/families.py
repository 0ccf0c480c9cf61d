"""Is there a feature for a family of concepts? Searched with some texts, judged on others, beside random directions.

Existence is all that is asked here. That a feature exists does not show that the model uses it, or that anything is dangerous.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_pipeline.interpret.explanation_scores import auroc
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.resampling import N_RESAMPLES
from sae_pipeline.survey.search.banks import Bank
from sae_pipeline.survey.search.concepts import Concept
from sae_pipeline.survey.search.methods import (
    METHODS,
    N_ATTRIBUTED,
    attribution,
    classifier,
    geometry,
    prompt_sets,
    single_prompt,
)
from sae_pipeline.survey.search.reading import means, read_texts, strongest
from sae_pipeline.survey.thresholds import thresholds

NOTE = "that a feature exists does not show that it is used, or that anything is dangerous"


@dataclass(frozen=True)
class Searched:
    """One concept. Values per text of its best unit by each method, for features and for random directions."""

    concept: Concept
    unit: dict[str, tuple[int, int]]  # method -> (feature, random direction)
    train_auroc: dict[str, tuple[float, float]]
    value_I: dict[str, tuple[np.ndarray, np.ndarray]]  # of the held-out texts
    probe_auroc: float
    feature_IF: np.ndarray  # of all texts
    direction_IF: np.ndarray
    mean_ID: np.ndarray

    @property
    def held_out_positive_I(self) -> np.ndarray:
        """Which held-out texts have the concept."""
        return self.concept.positive_I[self.concept.held_out_I]

    def best_method(self, arm: int) -> str:
        """The method whose unit separates the searched texts best; ties go to the one named last in `METHODS`."""
        return max(self.unit, key=lambda method: (self.train_auroc[method][arm], METHODS.index(method)))

    def row(self, method: str, size: int, seed: int) -> dict:
        """A row of `concept_search_results`, and `is_safety`.

        The null is the random direction of the method that separates the searched texts best among random directions: it chooses
        its method as the features choose theirs. By the features' method alone it could be next to nothing (geometry).
        """
        null_method = self.best_method(1)
        value_I, null_I = self.value_I[method][0], self.value_I[null_method][1]
        positive_I = self.held_out_positive_I
        boot = resampled(positive_I, (value_I, null_I), seed)
        value, null = auroc(value_I, positive_I), auroc(null_I, positive_I)
        low, high = np.percentile(boot[0], [2.5, 97.5])
        difference_low, difference_high = np.percentile(boot[0] - boot[1], [2.5, 97.5])
        if self.probe_auroc < thresholds().carried_auroc:
            verdict = "not testable"
        else:
            verdict = "found" if value >= thresholds().found_auroc and difference_low > 0 else "not found"
        return {
            "size": size, "concept": self.concept.name, "family": self.concept.family, "method": method,
            "is_choice": method == self.best_method(0), "is_safety": self.concept.safety, "feature": self.unit[method][0],
            "auroc_search": self.train_auroc[method][0], "auroc": value, "low": float(low), "high": float(high),
            "null_method": null_method, "null_auroc": null, "difference_low": float(difference_low),
            "difference_high": float(difference_high), "probe_auroc": self.probe_auroc, "verdict": verdict,
            "n_held_out": len(positive_I), "note": NOTE,
        }  # fmt: skip


def search(lm: LanguageModel, banks: tuple[Bank, Bank], concept: Concept, bos: bool, seed: int) -> Searched:
    """Look for one concept by all methods in both banks. Attribution is left out where a label is no single token."""
    reads = read_texts(lm, banks[0], concept.texts, bos)
    values = [strongest(bank, reads) for bank in banks]
    mean_ID = means(banks[0], reads)
    train_I = ~concept.held_out_I
    positive_I = concept.positive_I[train_I]
    scores: dict[str, list[np.ndarray]] = {
        "single_prompt": [single_prompt(each[0]) for each in values],
        "prompt_sets": [prompt_sets(each[train_I], positive_I) for each in values],
        "geometry": [geometry(bank.rows_FD, mean_ID[train_I], positive_I) for bank in banks],
        "classifier": [classifier(each[train_I], positive_I, seed) for each in values],
    }
    if all(len(lm.tokenize(word, bos=False)) == 1 for word in (concept.label, concept.other)):
        scores["attribution"] = attribution(lm, banks, concept.positives[:N_ATTRIBUTED], concept.label, concept.other, bos)
    unit, train_auroc, value_I = {}, {}, {}
    for method in (name for name in METHODS if name in scores):
        best = [int(np.argmax(score)) for score in scores[method]]
        unit[method] = (best[0], best[1])
        columns = [each[:, at] for each, at in zip(values, best, strict=True)]
        train_auroc[method] = (auroc(columns[0][train_I], positive_I), auroc(columns[1][train_I], positive_I))
        value_I[method] = (columns[0][concept.held_out_I], columns[1][concept.held_out_I])
    probe = dense_probe(mean_ID[train_I], positive_I, seed).decision_function(mean_ID[concept.held_out_I])
    probe_auroc = auroc(probe, concept.positive_I[concept.held_out_I])
    return Searched(concept, unit, train_auroc, value_I, probe_auroc, values[0], values[1], mean_ID)


def resampled(positive_I: np.ndarray, values: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """AUROC of each of `values` on the same resamples of texts (positives and negatives apart), len(values) x resamples."""
    random = np.random.default_rng([seed, len(positive_I)])
    places = [np.flatnonzero(positive_I), np.flatnonzero(~positive_I)]
    out = np.empty((len(values), N_RESAMPLES))
    for s in range(N_RESAMPLES):
        drawn = np.concatenate([random.choice(place, len(place)) for place in places])
        out[:, s] = [auroc(value_I[drawn], positive_I[drawn]) for value_I in values]
    return out


def dense_probe(x_ID: np.ndarray, positive_I: np.ndarray, seed: int):
    """Logistic regression on the standardised residual: what the model carries at all."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, random_state=seed)).fit(x_ID, positive_I)
