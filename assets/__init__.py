"""The assets: one module per stage, each a thin function that calls the science and publishes its result.

What belongs here: which builder runs with which part of the study, the blocking checks, the metadata that the UI shows. What does
not: anything that computes.
"""

from assets.activations import activations
from assets.analysis_tables import analysis_tables
from assets.attribution import attribution
from assets.case_clamps import case_clamps
from assets.case_studies import case_studies
from assets.completeness import completeness
from assets.concept_search import concept_search
from assets.corpus import corpus
from assets.explanations import explanations
from assets.feature_families import feature_families
from assets.feature_stats import feature_stats
from assets.features_vs_neurons import features_vs_neurons
from assets.invariants import invariants
from assets.main_results import main_results
from assets.neighbourhood_checks import neighbourhood_checks
from assets.neighbourhoods import neighbourhoods
from assets.null_models import null_models
from assets.publishing import StageAsset
from assets.random_model import random_model
from assets.report import report
from assets.sae import sae
from assets.sae_metrics import sae_metrics
from assets.scaling_laws import scaling_laws
from assets.size_comparison import size_comparison
from assets.specificity_scores import specificity_scores
from assets.steering_comparison import steering_comparison
from assets.steering_evals import steering_evals
from assets.survey_verdicts import survey_verdicts

STAGE_ASSETS: tuple[StageAsset, ...] = (
    corpus,
    activations,
    random_model,
    sae,
    sae_metrics,
    feature_stats,
    explanations,
    specificity_scores,
    steering_evals,
    neighbourhoods,
    case_studies,
    case_clamps,
    attribution,
    concept_search,
    main_results,
    invariants,
    steering_comparison,
    null_models,
    scaling_laws,
    features_vs_neurons,
    feature_families,
    neighbourhood_checks,
    completeness,
    survey_verdicts,
    analysis_tables,
    size_comparison,
    report,
)
