"""Writes docs/studies.md from the study's own classes: `python -m sae_pipeline.study_docs`.

A test compares the committed page with this module's output, so the page cannot drift from the code.
"""

from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from sae_pipeline import study, study_survey, study_survey_laws
from sae_pipeline.study import Section

PAGE = Path("docs/studies.md")
MODULES = ("study", "study_inputs", "study_judge", "study_sae", "study_pretrained", "study_survey")
SECTIONS: tuple[tuple[str, type[Section]], ...] = (
    ("(top level)", study.Study),
    ("model, source: hub", study.HubModel),
    ("model, source: folder", study.FolderModel),
    ("model, source: package", study.PackageModel),
    ("hook", study.Hook),
    ("corpus", study.Corpus),
    ("corpus.sources, kind: builtin", study.BuiltinSource),
    ("corpus.sources, kind: hub", study.HubSource),
    ("corpus.sources, kind: local", study.LocalSource),
    ("activations", study.Activations),
    ("sae", study.Sae),
    ("sae, source: pretrained", study.PretrainedSae),
    ("random_model", study.RandomModel),
    ("metrics", study.Metrics),
    ("features", study.Features),
    ("explain", study.Explain),
    ("score", study.Score),
    ("steer", study.Steer),
    ("survey", study.Survey),
    ("survey.neighbourhoods", study_survey.Neighbourhoods),
    ("survey.case_studies", study_survey.CaseStudies),
    ("survey.invariants", study_survey.Invariants),
    ("survey.attribution", study_survey.Attribution),
    ("survey.steering_comparison", study_survey.SteeringComparison),
    ("survey.concept_search", study_survey.ConceptSearch),
    ("survey.null_models", study_survey_laws.NullModels),
    ("survey.scaling_laws", study_survey_laws.ScalingLaws),
    ("survey.features_vs_neurons", study_survey.FeaturesVsNeurons),
    ("survey.feature_families", study_survey_laws.FeatureFamilies),
    ("survey.neighbourhood_checks", study_survey_laws.NeighbourhoodChecks),
    ("survey.completeness", study_survey.Completeness),
    ("judge", study.Judge),
    ("judge.prices, by model", study.ModelPrice),
)
HEAD = """# Studies: every key

A study is one YAML file; `studies/demo.yaml` is a complete one. A key that is not listed here is refused when the file is
loaded. Editing a key re-runs exactly the stages whose result depends on it (`sae-pipeline status` shows which, and why).
This page is written by `python -m sae_pipeline.study_docs`.
"""


def render() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for title, section in SECTIONS:
        parts.append(f"\n## {title}\n\n{' '.join((section.__doc__ or '').split())}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        for name, field in section.model_fields.items():
            parts.append(f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {field.description or ''} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _type(annotation: Any) -> str:
    name = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    for noise in ("typing.", *(f"sae_pipeline.{module}." for module in MODULES), "<class '", "'>"):
        name = name.replace(noise, "")
    if "discriminator" in name.lower() or "HubModel" in name or "Tag(" in name or "HubSource" in name:
        name = "one of the sections below"
    return name.replace("Literal", "one of ").replace("|", "or")


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return "its section's defaults" if isinstance(field.default, Section) else f"`{field.default}`"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
