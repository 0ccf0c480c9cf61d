"""Expected time of every stage, in floating-point operations divided by measured rates."""

from sae_pipeline.plan_survey import survey_seconds
from sae_pipeline.plan_work import SAE_TOKEN_CORE_SECONDS, Shape, Work
from sae_pipeline.sae.names import has_k
from sae_pipeline.study import PretrainedSae, Steer, Study

DENSE_PRODUCTS = 6  # matrix products of a step that is not sparse
N_INSTRUCTIONS, THIN_CHOOSE = 2, 4  # of the prompt-only control: templates, texts of each on the choosing half
READ_BYTES_PER_SECOND = 2e8  # of a pretrained SAE: read, checked, refolded in float64


def expected_seconds(study: Study, shape: Shape, stage: str, size: int | None) -> float:
    """Expected time of one artefact on this machine's CPU cores."""
    work = Work(study, shape, size)
    splice = study.metrics.splice_tokens * (work.whole - work.to_hook)
    held_out = work.tokens * study.corpus.held_out
    match stage:
        case "corpus":
            return 10 + work.tokens / 1e5
        case "activations":
            return 5 + (work.tokens * work.to_hook + 3 * splice) / work.model_rate
        case "random_model":
            control = study.random_model
            trained = control.n_tokens * (1 - study.corpus.held_out) * control.epochs
            return 6 + control.n_tokens * work.to_hook / work.model_rate + trained * SAE_TOKEN_CORE_SECONDS / work.cores
        case "sae":
            if isinstance(study.sae, PretrainedSae):
                return 2 + 8 * shape.d_model * (work.size or 0) / READ_BYTES_PER_SECOND
            products = 1 if has_k(study.sae.architecture) else DENSE_PRODUCTS
            trained = work.train_tokens * study.sae.epochs
            return 2 + trained * (SAE_TOKEN_CORE_SECONDS / work.cores + products * work.encode() / work.sae_rate)
        case "sae_metrics":
            return 3 + 2 * splice / work.model_rate + held_out * 2 * work.encode() / work.sae_rate
        case "feature_stats":
            return 5 + work.tokens * work.encode() / work.sae_rate
        case "steering_evals":
            texts = n_texts(study.steer, study.n_steered(work.size or 0), work.size == max(study.sae.sizes))
            generated = texts * study.steer.max_new_tokens
            return 10 + generated * work.whole / work.generation_rate
        case "explanations" | "specificity_scores":
            return 10
        case _:
            return survey_seconds(work, stage)


def n_texts(steer: Steer, n_features: int, is_largest: bool) -> int:
    """Texts that the steering evals of one size generate, at most: as if the shared controls needed every factor
    (`sae_pipeline.steering.plan` decides)."""
    half, n, shared = steer.n_prompts // 2, len(steer.features or ()) or n_features, 2
    n_factors = len(set(steer.factors))
    choices = len([factor for factor in set(steer.factors) if factor > 0]) or n_factors
    thin, added = min(steer.choose_samples, THIN_CHOOSE), 1 if is_largest else 0
    baseline = half * (2 + steer.samples_per_prompt)
    choosing = n * (N_INSTRUCTIONS * thin + choices * (steer.choose_samples + added * thin))
    choosing += choices * (2 * steer.choose_samples + added * thin)
    reporting = n * (half * (1 + steer.samples_per_prompt + added) + (n_factors - 1) * steer.dose_samples)
    return baseline + choosing + reporting + choices * half * (steer.samples_per_prompt + added + shared)
