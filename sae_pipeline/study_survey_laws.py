"""Sections of `survey` for which small SAEs are trained, and for how features of several sizes and seeds are related."""

from itertools import pairwise

from pydantic import Field, field_validator, model_validator

from sae_pipeline.study_inputs import Section


class NullModels(Section):
    """SAEs that cannot know anything of the model, and planted features. The SAEs have the smallest size and the study's k."""

    n_seeds: int = Field(default=3, ge=1, le=20, description="seeds of every SAE trained here")
    epochs: float = Field(default=1, gt=0, description="passes over the training tokens, in batches of 512")
    learning_rate: float = Field(default=1.0e-3, gt=0, description="peak, Adam")
    n_tokens_held_out: int = Field(default=40_000, gt=0, description="held-out tokens on which reconstruction is measured")
    n_tokens_pca: int = Field(default=100_000, gt=0, description="training tokens from which components are computed")
    n_scored: int = Field(default=40, ge=2, description="units of each arm that are explained and scored")
    synthetic_steps: int = Field(default=1000, gt=0, description="steps on planted features, 512 fresh tokens each")
    synthetic_learning_rate: float = Field(default=3.0e-3, gt=0, description="peak, Adam")
    seed: int = Field(default=0, description="of every other random choice of this section")


class ScalingLaws(Section):
    """Small SAEs trained for the scaling laws: sizes and steps double, nothing sees a token twice."""

    sizes: list[int] = Field(
        default=[256, 512, 1024, 2048, 4096], min_length=4, description="features, each twice the one before"
    )
    steps: list[int] = Field(default=[96, 192, 384, 768, 1536], min_length=4, description="each twice the one before")
    batch: int = Field(default=256, gt=0, le=512, description="tokens per step")
    learning_rate: float = Field(default=2.0e-3, gt=0, description="of the grid of sizes and steps")
    rates: list[float] = Field(
        default=[5.0e-4, 1.0e-3, 2.0e-3, 4.0e-3, 8.0e-3], min_length=5, description="learning rates, each by one factor"
    )
    n_rate_budgets: int = Field(default=4, ge=4, description="budgets at which rates are swept; the last is predicted")
    lambdas: list[float] = Field(default=[1.0, 2.0, 4.0], min_length=3, description="of ReLU-L1, compared at the L0 it comes to")
    matched_size: int = Field(default=1024, gt=1, description="features of both architectures at equal L0")
    matched_learning_rate: float = Field(default=2.0e-3, gt=0, description="of both architectures at equal L0")
    n_tokens_held_out: int = Field(default=24_000, gt=0, description="held-out tokens on which every run is measured")
    n_proxy_features: int = Field(default=32, ge=2, description="features of each run of the grid whose rules are scored")
    n_proxy_tokens: int = Field(default=40_000, gt=0, description="training tokens, and as many held-out ones, for these rules")
    seed: int = Field(default=0, description="of every random choice of this section, training among them")

    @field_validator("sizes", "steps", "rates")
    @classmethod
    def _geometric(cls, values: list[float]) -> list[float]:
        factors = [after / before for before, after in pairwise(values)] if min(values) > 0 else [0.0]
        if min(factors) <= 1 or max(factors) / min(factors) > 1.001:
            raise ValueError("values must be positive and grow by one factor")
        return values

    @model_validator(mode="after")
    def _budgets_meet(self) -> "ScalingLaws":
        if any(abs(values[1] / values[0] - 2) > 1e-9 for values in (self.sizes, self.steps)):
            raise ValueError("sizes and steps must double, so that several runs meet a budget")
        if min(self.lambdas) <= 0:
            raise ValueError("lambdas must be positive")
        return self


class FeatureFamilies(Section):
    """Links between features of several sizes, and recurrence in a second seed of every size but the smallest."""

    min_cosine: float = Field(default=0.5, gt=0, le=1, description="of the decoder rows of parent and child")
    min_parent_given_child: float = Field(default=0.7, gt=0, le=1, description="of the child's activations with its parent's")
    min_activations: int = Field(default=10, ge=1, description="held-out activations that a child needs to be judged")
    max_known_cosine: float = Field(default=0.3, gt=0, lt=1, description="to every smaller feature, below which one is new")
    recurs_cosine: float = Field(default=0.7, gt=0, le=1, description="to its mutual nearest in the other seed")
    epochs: float = Field(default=3, gt=0, description="passes of a second seed's training, at most the study's own")
    seed: int = Field(default=0, description="of every random choice of this section but the second seed")


class NeighbourhoodChecks(Section):
    """Whether near features have related labels."""

    n_anchors: int = Field(default=1000, ge=10, description="features per size; two pairs and one question for each")
    seed: int = Field(default=0, description="of every random choice of this section")
