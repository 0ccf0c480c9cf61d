"""The section `survey`: what `sae-pipeline run --job survey` makes after the main run, with a budget for each part."""

from pydantic import Field, field_validator

from sae_pipeline.study_inputs import Section
from sae_pipeline.study_survey_laws import FeatureFamilies, NeighbourhoodChecks, NullModels, ScalingLaws
from sae_pipeline.study_survey_search import Attribution, ConceptSearch


class Neighbourhoods(Section):
    """Nearest features and the map."""

    n_neighbours: int = Field(
        default=15, ge=2, le=100, description="nearest features kept per feature and size, and what the map is made from"
    )
    min_dist: float = Field(default=0.05, ge=0, le=1, description="how close UMAP may put features on the map")
    seed: int = Field(default=0, description="of every random choice of this section")


class Invariants(Section):
    """What must hold exactly: gradients, schedules, decomposition, stored activations, clamps."""

    n_tokens: int = Field(default=512, ge=16, description="tokens for gradients and for the decomposition")
    n_norm_tokens: int = Field(default=500_000, ge=16, description="training tokens over which the scale is checked, at most")
    n_batches: int = Field(default=24, ge=2, description="training batches whose documents are counted")
    n_examples: int = Field(default=24, ge=1, description="stored examples per size that are computed again")
    n_clamped: int = Field(default=3, ge=1, description="features per size that are clamped")
    seed: int = Field(default=0, description="of every random choice of this section")


class SteeringComparison(Section):
    """Ways of steering beside each other, on the largest size."""

    n_concepts: int = Field(default=12, ge=2, le=30, description="concepts of the committed file, in its order (it holds 30)")
    factors: list[float] = Field(default=[0.5, 1, 1.5, 2], min_length=1, description="multiples of the feature's maximum tried")
    n_prompts: int = Field(default=12, ge=4, description="neutral prompts; half choose the factor, half report")
    samples_per_prompt: int = Field(default=2, gt=0, description="texts per reporting prompt, concept and method")
    max_new_tokens: int = Field(default=16, gt=0, description="length of a text, at most")
    n_capability_features: int = Field(default=10, gt=0, description="features, and random ones, whose cost is measured")
    n_cost_blocks: int = Field(default=4, gt=0, description="held-out blocks on which it is measured, beside multiple choice")
    seed: int = Field(default=0, description="of every random choice of this section")

    @field_validator("factors")
    @classmethod
    def _told_apart(cls, factors: list[float]) -> list[float]:
        """Texts are told apart by their factor, also from those at 100 times the maximum, which every comparison looks at."""
        if len(set(factors)) < len(factors) or max(map(abs, factors)) >= 100:
            raise ValueError("factors must differ, and lie between -100 and 100")
        return factors


class FeaturesVsNeurons(Section):
    """Correlation with neurons and residual dimensions, specificity by activation, sensitivity."""

    n_features: int = Field(default=1000, ge=1, description="random live features per size that are correlated")
    n_directions: int = Field(default=200, ge=1, description="random directions of equal density beside them")
    n_tokens: int = Field(default=100_000, ge=64, description="tokens, half train and half held out, at most")
    n_error_tokens: int = Field(default=8192, ge=64, description="tokens per split on which thresholds are held to their error")
    n_windows: int = Field(default=1000, ge=1, description="held-out activations of each of the four chosen features")
    seed: int = Field(default=0, description="of every random choice of this section")


class CaseStudies(Section):
    """The paper's single cases, on the largest size."""

    threshold_tokens: int = Field(
        default=8_192, ge=256, le=1_000_000, description="training tokens on which random directions get their thresholds"
    )
    syntax_tokens: int = Field(
        default=16_384, ge=256, le=1_000_000, description="tokens of Python documents per split, held against the parser's labels"
    )
    n_rival_groups: int = Field(
        default=8, ge=2, le=50,
        description="banks of random directions as large as the SAE, and groups of random features, beside every clamp",
    )  # fmt: skip
    new_tokens: int = Field(default=24, ge=4, le=200, description="tokens of every text that is generated")
    cost_blocks: int = Field(default=8, ge=2, le=1_000, description="held-out blocks per half that say what a clamp costs")
    seed: int = Field(default=0, description="of every random choice of this section")


class Completeness(Section):
    """Which words have a feature, by frequency and size."""

    min_train: int = Field(default=5, ge=1, description="mentions in train documents below which a word is not scored")
    min_held_out: int = Field(default=2, ge=1, description="the same in held-out documents")
    n_directions: int | None = Field(
        default=None, ge=1, description="random directions of the null per size, at most; none: as many as it has live features"
    )
    seed: int = Field(default=0, description="of every random choice of this section")


class Survey(Section):
    """What `sae-pipeline run --job survey` makes after the main run: one section for each of its stages."""

    max_generated_tokens: int = Field(
        default=150_000,
        ge=1,
        description="tokens that all stages together may ask the model to write; a study that asks for more is refused",
    )
    neighbourhoods: Neighbourhoods = Neighbourhoods()
    case_studies: CaseStudies = CaseStudies()
    invariants: Invariants = Invariants()
    attribution: Attribution = Attribution()
    steering_comparison: SteeringComparison = SteeringComparison()
    concept_search: ConceptSearch = ConceptSearch()
    null_models: NullModels = NullModels()
    scaling_laws: ScalingLaws = ScalingLaws()
    features_vs_neurons: FeaturesVsNeurons = FeaturesVsNeurons()
    feature_families: FeatureFamilies = FeatureFamilies()
    neighbourhood_checks: NeighbourhoodChecks = NeighbourhoodChecks()
    completeness: Completeness = Completeness()
