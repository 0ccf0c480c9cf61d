"""Parts of the section `survey`: attribution, and the search for concepts."""

from pydantic import Field

from sae_pipeline.study_inputs import Section


class Attribution(Section):
    """Attribution against ablation over committed prompts."""

    max_prompts: int = Field(default=60, ge=1, description="prompts that the model gets right, taken in turn from every family")
    n_ablations: int = Field(
        default=200, ge=2, description="active (position, feature) pairs per prompt, drawn to be switched off one by one"
    )
    n_strongest: int = Field(default=20, ge=0, description="pairs of largest attribution that are switched off besides")
    n_finite_differences: int = Field(
        default=12, ge=1, description="pairs per prompt whose attribution is checked by differences"
    )
    seed: int = Field(default=0, description="of every random choice of this section")
