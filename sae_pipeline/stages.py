"""The stages of the graph: what each reads, which study fields change its result, and its code version.

This table is the only place that knows the graph's shape; assets, freshness and the plan are read from it. Bump
`code_version` when a stage's code changes its result: everything below is then rebuilt as far as its bytes differ.
"""

import hashlib
import json
from typing import Any

from sae_pipeline.stage import COMPARE, JUDGE, MODEL_IDENTITY, PER_SIZE, PREPARE, SURVEY, SURVEY_PER_SIZE, Stage
from sae_pipeline.study import PretrainedSae, Study
from sae_pipeline.survey_stages import SURVEY_STAGES

__all__ = [
    "COMPARE", "PER_SIZE", "PREPARE", "STAGES", "SURVEY", "SURVEY_PER_SIZE", "Stage", "sizes_of", "stages_of", "study_digest",
]  # fmt: skip

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("corpus", "data", (), (*MODEL_IDENTITY, "corpus"), per_size=False),
        Stage(
            "activations",
            "data",
            ("corpus",),
            (*MODEL_IDENTITY, "model.dtype", "hook", "activations", "metrics"),
            per_size=False,
        ),
        Stage(
            "sae",
            "sae",
            ("activations",),
            (
                "sae.architecture",
                "sae.k",
                "sae.l1",
                "sae.sparsity",
                "sae.sparsity_loss",
                "sae.sparsity_warmup",
                "sae.prefixes",
                "sae.epochs",
                "sae.batch",
                "sae.learning_rate",
                "sae.seed",
                "sae.ring",
            ),
        ),
        Stage(
            "random_model",
            "controls",
            ("corpus",),
            (
                *MODEL_IDENTITY,
                "model.dtype",
                "hook",
                "activations.dtype",
                "activations.mask_norm_above_median",
                "activations.center",
                "random_model",
            ),
            per_size=False,
        ),
        Stage("sae_metrics", "sae", ("corpus", "activations", "sae"), ("metrics",), code_version="2"),
        Stage("feature_stats", "features", ("corpus", "activations", "sae"), ("features",), code_version="3"),
        Stage(
            "explanations",
            "interpretation",
            ("corpus", "activations", "random_model", "sae", "feature_stats"),
            (
                "explain",
                "score.seed",
                "score.n_controls",
                "score.n_features",
                "score.features",
                "score.chosen",
                "score.examples_per_call",
                *JUDGE,
            ),
            code_version="2",
        ),
        Stage(
            "specificity_scores",
            "interpretation",
            ("corpus", "activations", "feature_stats", "explanations"),
            ("score", "explain.method", *JUDGE),
            code_version="3",
        ),
        Stage("steering_evals", "steering", ("corpus", "activations", "sae", "feature_stats"), ("steer",), code_version="2"),
        *SURVEY_STAGES,
        Stage(
            "analysis_tables",
            "analysis",
            (
                "corpus",
                "activations",
                "random_model",
                "sae",
                "sae_metrics",
                "feature_stats",
                "explanations",
                "specificity_scores",
                "steering_evals",
            ),
            ("name", "sae.sizes"),
            per_size=False,
            optional=tuple(stage.name for stage in SURVEY_STAGES),
            code_version="5",
        ),
        Stage("size_comparison", "analysis", ("analysis_tables",), (), per_size=False, code_version="3"),
        Stage("report", "analysis", ("analysis_tables", "size_comparison"), (), per_size=False, code_version="6"),
    )
}


def stages_of(job: str) -> list[str]:
    """The stages of a job, upstream first."""
    return [name for name, stage in STAGES.items() if stage.job == job]


# How an architecture is trained: bump it when only its own SAEs change. Those without an entry are as in version 1.
RECIPES = {"relu_l1": 3, "gated": 3, "jumprelu": 4}


def study_digest(study: Study, stage: str, size: int | None = None) -> str:
    """Digest of exactly the study fields on which `stage` depends (and the size, where the stage has one)."""
    raw = study.model_dump(mode="json")
    values: dict[str, Any] = {field: _pick(raw, field) for field in STAGES[stage].fields}
    if stage == "random_model":
        values["sae"] = study.control_sae.model_dump(mode="json", exclude={"epochs", "checkpoint_every_steps", "ring"})
        values |= _recipe(study.control_sae.architecture)
    if isinstance(study.sae, PretrainedSae):
        if stage == "sae":
            # Where this size's file is; its bytes are an input (`sae_pipeline.inputs`). How the study reads activations counts
            # too, because what the file says is held against it.
            own = study.sae.model_dump(mode="json", exclude={"sizes", "folders"})
            values = {"sae": own, "folder": study.sae.folders.get(size or 0), "hook": raw["hook"], "model": raw["model"]}
            values |= {"context": study.corpus.context, "bos": study.corpus.bos}
    elif stage == "sae":
        if size is not None:
            values["sae.learning_rate"] = study.sae.learning_rate_of(size)
        values |= _recipe(study.sae.architecture)
    if stage == "steering_evals" and size is not None:
        # Only this size's own count matters: another size's count must not re-run this one.
        values["steer"] = {**values["steer"], "n_features": study.n_steered(size)}
        values["is_largest"] = size == max(study.sae.sizes)  # only the largest is also steered by addition
    values["size"] = size
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _recipe(architecture: str) -> dict[str, Any]:
    return {"recipe": RECIPES[architecture]} if architecture in RECIPES else {}


def _pick(raw: dict[str, Any], dotted: str) -> Any:
    value: Any = raw
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def sizes_of(study: Study, stage: str) -> list[int | None]:
    """The partitions of a stage: every SAE size, or `[None]` for an unpartitioned one."""
    return list(study.sae.sizes) if STAGES[stage].per_size else [None]
