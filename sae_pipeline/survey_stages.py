"""The stages of the survey (paper, second half): run by the job `survey` after the main run, taken into the analysis when fresh.

All but the last write `measurements.parquet` beside their own tables; `survey_verdicts` holds them to the thresholds of
`sae_pipeline/survey/checklist.yaml`.
"""

from sae_pipeline.stage import MODEL_IDENTITY, SURVEY, Stage

CASE_FILES = ("abstract", "chat", "code_errors", "functions", "lists", "parallel", "self", "syntax", "toys")
THRESHOLDS = "survey/thresholds.yaml"
CLAMP_FILES = ("code_errors", "neutral", "praise", "pronouns", "secrecy", "self", "unsafe_code", "yes_bias")

MEASURING_STAGES: tuple[Stage, ...] = (
    Stage("neighbourhoods", SURVEY, ("sae",), ("sae.sizes", "survey.neighbourhoods"), per_size=False),
    Stage(
        "case_studies", SURVEY, ("corpus", "activations", "sae", "feature_stats"),
        (*MODEL_IDENTITY, "model.dtype", "hook", "sae.sizes", "survey.case_studies"), per_size=False, code_version="5",
        files=(*(f"survey/cases/{name}.yaml" for name in CASE_FILES), THRESHOLDS),
    ),
    Stage(
        "case_clamps", SURVEY, ("corpus", "activations", "sae", "feature_stats"),
        (*MODEL_IDENTITY, "model.dtype", "hook", "sae.sizes", "survey.case_studies"), per_size=False, code_version="6",
        files=(*(f"survey/cases/{name}.yaml" for name in CLAMP_FILES), THRESHOLDS),
    ),
    Stage(
        "attribution", SURVEY, ("sae", "feature_stats"),
        (*MODEL_IDENTITY, "hook", "corpus.bos", "sae.sizes", "survey.attribution"), per_size=False, code_version="7",
        files=(*(f"survey/attribution/{name}.yaml" for name in ("prompts", "words", "requests")), THRESHOLDS),
    ),
    Stage(
        "concept_search", SURVEY, ("corpus", "activations", "sae", "feature_stats"),
        (*MODEL_IDENTITY, "hook", "corpus.bos", "sae.sizes", "survey.concept_search"), per_size=False, code_version="8",
        files=("survey/completeness/families/*.yaml", THRESHOLDS),
    ),
    Stage(
        "main_results", SURVEY, ("sae_metrics", "explanations", "specificity_scores", "steering_evals"),
        ("sae.sizes", *MODEL_IDENTITY), per_size=False, code_version="6",
        files=("survey/limitations.yaml", "steering/prompts.yaml"),
    ),
    Stage(
        "invariants", SURVEY, ("corpus", "activations", "sae", "feature_stats"), ("sae.sizes", "survey.invariants"),
        per_size=False, code_version="6", files=(THRESHOLDS,),
    ),
    Stage(
        "steering_comparison", SURVEY, ("corpus", "sae", "feature_stats"), ("sae.sizes", "hook", "survey.steering_comparison"),
        per_size=False, code_version="8", files=("survey/steering/*.yaml", "steering/prompts.yaml", THRESHOLDS),
    ),
    Stage(
        "null_models", SURVEY, ("corpus", "activations", "random_model"), ("sae.sizes", "sae.k", "survey.null_models"),
        per_size=False, code_version="6", files=(THRESHOLDS,),
    ),
    Stage("scaling_laws", SURVEY, ("corpus", "activations"), ("sae.k", "survey.scaling_laws"), per_size=False, code_version="6"),
    Stage(
        "features_vs_neurons", SURVEY, ("corpus", "activations", "sae", "feature_stats", "explanations", "specificity_scores"),
        ("score.seed", "score.n_features", "score.features", "score.chosen", "survey.features_vs_neurons"),
        code_version="5", files=(THRESHOLDS,),
    ),
    Stage(
        "feature_families", SURVEY, ("activations", "sae", "feature_stats"), ("sae", "survey.feature_families"), per_size=False,
        code_version="4",
    ),
    Stage(
        "neighbourhood_checks", SURVEY, ("neighbourhoods", "sae", "explanations"),
        ("sae.sizes", "survey.neighbourhood_checks"), per_size=False, code_version="3", files=(THRESHOLDS,),
    ),
    Stage(
        "completeness", SURVEY, ("corpus", "activations", "feature_stats"), ("sae.sizes", "survey.completeness"),
        per_size=False, code_version="3",
        files=("survey/completeness/families/*.yaml", "survey/completeness/prediction.yaml", THRESHOLDS),
    ),
)  # fmt: skip
SURVEY_STAGES: tuple[Stage, ...] = (
    *MEASURING_STAGES,
    Stage(
        "survey_verdicts", SURVEY, tuple(stage.name for stage in MEASURING_STAGES), (), per_size=False,
        files=("survey/checklist.yaml", THRESHOLDS), code_version="7",
    ),
)  # fmt: skip
