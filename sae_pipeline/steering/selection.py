"""Which features are steered: drawn before anything is generated, with a seed, from concept-like features.

Eligible: active in training with a density from 1e-4 to 1e-2, in at least 5 documents. Concept-like: its training contexts give
at least 3 concept terms, one of them is near for at least half of its activation mass, and at least 30 % lies on such words
themselves (not on punctuation, line breaks or pieces of other words). Half of the features are the first of a random order,
half are the best logit-output scores among later ones in the same order; the control features lie between the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import polars as pl

from sae_pipeline.errors import UserError
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import track
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.concepts import Concept, CorpusWords
from sae_pipeline.steering.output_score import Candidate, coarse_scores, fine_scores, says

DENSITY = (1e-4, 1e-2)
MIN_DOCUMENTS = 5
MIN_TERMS, MIN_COVERAGE, MIN_OWN, N_TERMS = 3, 0.5, 0.3, 8
N_SCORED = 1024  # candidates with a coarse logit-output score
N_FINALISTS = 64  # the best of these, scored again in full


@dataclass(frozen=True)
class Drawn:
    """A feature to steer (or to steer as a control)."""

    feature: int
    selected_by: Literal["random", "output_score", "requested"]
    concept: Concept
    top_token: str
    maximum: float
    density: float
    output_score: float | None = None


@dataclass(frozen=True)
class Draw:
    """What is steered. `n_lifted`: how many of the features do not meet every condition; they were taken because too
    few do."""

    targets: list[Drawn]
    controls: list[Drawn]
    n_lifted: int


def draw_features(
    features: pl.DataFrame,
    activations: SparseActivations,
    words: CorpusWords,
    lm: LanguageModel,
    sae: SparseAutoencoder,
    n_targets: int,
    n_controls: int,
    requested: Sequence[int] | None,
    seed: int,
) -> Draw:
    """Draw targets and control features. `features`: rows of features.parquet; `activations`: the training split's.

    Raises `UserError` when a requested feature was never active, or no feature is.
    """
    facts = {row["feature"]: row for row in features.iter_rows(named=True)}

    def drawn(feature: int, selected_by: Literal["random", "output_score", "requested"]) -> Drawn:
        token_index, value = activations.of(feature)
        row = facts[feature]
        concept = words.concept(token_index, value, N_TERMS, strict=False)
        return Drawn(feature, selected_by, concept, row["top_token"], row["max_activation"], row["density"])

    for feature in requested or ():
        if feature not in facts or not facts[feature]["max_activation"] > 0:
            raise UserError("steer.features", f"feature {feature} was never active in training", "Name another feature.")
    n_random = 0 if requested else n_targets - n_targets // 2
    n_scored = 0 if requested else n_targets // 2
    order = _candidates(facts, activations, words, seed, set(requested or ()))
    head = list(islice(track(order, "concept words", unit="features"), n_random + n_controls + (N_SCORED if n_scored else 0)))
    # Features that do not fit are taken only as far as the fitting ones do not suffice.
    unfit = [feature for feature, fits in head if not fits]
    head = [feature for feature, fits in head if fits]
    head += unfit[: max(0, n_random + n_controls + n_scored - len(head))]
    random, controls, pool = head[:n_random], head[n_random : n_random + n_controls], head[n_random + n_controls :]

    def candidate(feature: int) -> Candidate:
        terms = words.concept(*activations.of(feature), N_TERMS, strict=False).terms
        return Candidate(feature, facts[feature]["max_activation"], says(lm, terms))

    later = [candidate(feature) for feature in pool]
    ranked = sorted(zip(coarse_scores(lm, sae, later), later, strict=True), key=lambda pair: -pair[0])
    finalists = [*map(candidate, random), *(each for _, each in ranked[: max(N_FINALISTS, n_scored) if n_scored else 0])]
    scores = fine_scores(lm, sae, finalists)
    score_of = {each.feature: score for each, score in zip(finalists, scores, strict=True)}
    best = sorted(set(score_of) - set(random), key=lambda feature: (-score_of[feature], feature))[:n_scored]
    targets = [
        *(drawn(feature, "requested") for feature in requested or ()),
        *(replace(drawn(feature, "random"), output_score=score_of[feature]) for feature in random),
        *(replace(drawn(feature, "output_score"), output_score=score_of[feature]) for feature in best),
    ]
    if not targets or not controls:
        raise UserError("steering_evals", "too few features were ever active", "Train the SAE on more tokens.")
    return Draw(targets, [drawn(feature, "random") for feature in controls], len(set(unfit) & {*random, *controls, *best}))


def _candidates(
    facts: dict[int, dict], activations: SparseActivations, words: CorpusWords, seed: int, avoid: set[int]
) -> Iterator[tuple[int, bool]]:
    """(feature, whether it meets every condition), seeded random order; those that do come first, then all others ever active."""
    active = sorted(feature for feature, row in facts.items() if row["max_activation"] > 0 and feature not in avoid)
    order = [active[i] for i in np.random.default_rng(seed).permutation(len(active))]
    rest: list[int] = []
    for feature in order:
        if _eligible(facts[feature]) and _is_concept_like(words.concept(*activations.of(feature), N_TERMS)):
            yield feature, True
        else:
            rest.append(feature)
    yield from ((feature, False) for feature in rest)


def _eligible(row: dict) -> bool:
    return DENSITY[0] <= row["density"] <= DENSITY[1] and row["n_documents_train"] >= MIN_DOCUMENTS


def _is_concept_like(concept: Concept) -> bool:
    return len(concept.terms) >= MIN_TERMS and concept.coverage >= MIN_COVERAGE and concept.own >= MIN_OWN
