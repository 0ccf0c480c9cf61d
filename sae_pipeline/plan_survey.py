"""Expected time of the survey's stages."""

from sae_pipeline.plan_generation import asked_tokens
from sae_pipeline.plan_work import SAE_TOKEN_CORE_SECONDS, Work
from sae_pipeline.study import PretrainedSae

FLOAT32_RATE_PER_CORE = 6.0e10  # short prompts in single precision
PROMPT_TOKENS = 12  # of a committed prompt
LABEL_CORE_SECONDS = 6e-3  # of a sentence embedding
SAE_WEIGHT_STEP_SECONDS = 4e-9  # of an optimizer step, per weight
MAP_SECONDS_PER_FEATURE = 1.5e-3  # UMAP, one thread whatever the machine
GATHER_BYTES_PER_SECOND = 4e9  # of correlations: rows of neurons summed for every active pair
RANKED_TOKENS, SHORTLISTED = 85_000, 1_200  # tokens on which completeness ranks random directions; how many it looks at closely
CASE_TOKENS, CLAMP_TOKENS = 60_000, 60_000  # read by the case studies; continued from the hook under the clamps of an arm
SEARCH_TOKENS = 15_000  # read to find what is clamped, through every bank


def survey_seconds(work: Work, stage: str) -> float:
    """Expected time of one artefact of the survey on this machine's CPU cores; some seconds for what only gathers."""
    study, survey = work.study, work.study.survey
    match stage:
        case "attribution":
            settings = survey.attribution
            shifted = settings.max_prompts * (settings.n_ablations + settings.n_strongest + 2 * settings.n_finite_differences)
            return 30 + shifted * PROMPT_TOKENS * (work.whole - work.to_hook) / (FLOAT32_RATE_PER_CORE * work.cores)
        case "steering_comparison":
            n_tokens = asked_tokens(study)["steering_comparison"]
            return 90 + n_tokens * work.whole / work.generation_rate
        case "concept_search":
            searched = 2.5 * survey.concept_search.n_sample_tokens + 14 * survey.concept_search.n_probe_train
            return 60 + 2 * searched * work.encode(max(study.sae.sizes)) / work.sae_rate
        case "neighbourhoods":
            n_features = sum(study.sae.sizes)
            return 10 + n_features * (work.encode(n_features) / work.sae_rate + MAP_SECONDS_PER_FEATURE)
        case "invariants":
            # Blocks run again at the hook (stored examples) and through the whole model three times (clamps, float32).
            settings, context = survey.invariants, study.corpus.context
            blocks = len(study.sae.sizes) * context
            run = settings.n_examples * work.to_hook + 3 * 2 * settings.n_clamped * work.whole
            return 20 + blocks * run / work.model_rate
        case "feature_families":
            larger = study.sae.sizes[1:] or study.sae.sizes
            epochs = 0 if isinstance(study.sae, PretrainedSae) else min(study.sae.epochs, survey.feature_families.epochs)
            per_token = sum(SAE_TOKEN_CORE_SECONDS / work.cores + work.encode(size) / work.sae_rate for size in larger)
            return 15 + work.train_tokens * epochs * per_token
        case "neighbourhood_checks":
            return 10 + 5 * survey.neighbourhood_checks.n_anchors * len(study.sae.sizes) * LABEL_CORE_SECONDS / work.cores
        case "null_models":
            settings, smallest = survey.null_models, min(study.sae.sizes)
            trained = 2 * settings.n_seeds * settings.epochs * work.train_tokens
            per_token = SAE_TOKEN_CORE_SECONDS / work.cores + work.encode(smallest) / work.sae_rate
            return 60 + trained * per_token + settings.n_seeds * settings.synthetic_steps * 0.03 / work.cores
        case "scaling_laws":
            settings, n_rates = survey.scaling_laws, len(survey.scaling_laws.rates)
            runs = [(size, steps) for size in settings.sizes for steps in settings.steps]
            runs += [(settings.sizes[1], settings.steps[-2])] * n_rates * settings.n_rate_budgets
            runs += [(4 * settings.matched_size, settings.steps[-1])] * len(settings.lambdas)
            # Small batches: the optimizer's pass over all weights counts as much as the work.tokens.
            return 40 + sum(
                steps
                * (settings.batch * SAE_TOKEN_CORE_SECONDS / work.cores + 2 * work.shape.d_model * size * SAE_WEIGHT_STEP_SECONDS)
                for size, steps in runs
            )
        case "completeness":
            # Random directions, as many as there are features: all on a sample of tokens, some on all tokens.
            ranked = sum(RANKED_TOKENS * work.encode(size) + work.tokens * work.encode(SHORTLISTED) for size in study.sae.sizes)
            return 10 + 5e-5 * work.tokens * len(study.sae.sizes) + ranked / work.sae_rate
        case "features_vs_neurons":
            settings = survey.features_vs_neurons
            counted = min(settings.n_tokens, work.tokens)
            neurons = work.shape.d_mlp * (study.hook.after_block + 1)
            # Each active pair reads the neurons of its token once.
            active = (getattr(study.sae, "k", None) or 64) * min(1.0, settings.n_features / (work.size or 1)) + 1
            gathered = counted * active * neurons * 4 / (GATHER_BYTES_PER_SECOND * work.cores)
            return 30 + counted * work.to_hook / work.model_rate + gathered + counted * work.encode() / work.sae_rate
        case "case_studies":
            read = CASE_TOKENS + 4 * survey.case_studies.syntax_tokens
            banks = 2 * work.encode(max(study.sae.sizes))  # the features and as many random directions
            return 30 + CASE_TOKENS * work.to_hook / work.model_rate + read * banks / work.sae_rate
        case "case_clamps":
            banks = (1 + survey.case_studies.n_rival_groups) * work.encode(max(study.sae.sizes))
            arms = 1 + 2 * survey.case_studies.n_rival_groups  # the features, random directions, random features
            steered = arms * CLAMP_TOKENS * (work.whole - work.to_hook) / work.model_rate
            return 20 + steered + SEARCH_TOKENS * banks / work.sae_rate
        case _:
            return 3
