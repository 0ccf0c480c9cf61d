"""Parts of the section `survey`: attribution, and the search for concepts."""

from pathlib import Path

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


class ConceptSearch(Section):
    """Concepts looked for among the features of the largest size."""

    folder: str = Field(default="concepts", description="of concept files; from the working directory, or else from the project")
    n_sample_tokens: int = Field(
        default=8192, ge=64, description="training tokens that set the densities of random directions and count the units' tokens"
    )
    n_sort_pairs: int = Field(default=400, ge=1, description="pairs of units that held-out tokens are sorted to")
    n_probe_train: int = Field(default=2000, ge=200, description="training tokens of a sparse probe's data set")
    n_probe_test: int = Field(default=1000, ge=200, description="held-out tokens of it")
    seed: int = Field(default=0, description="of every random choice of this section")

    @property
    def concept_folder(self) -> Path:
        """The folder as seen from the working directory, if it is there; else as seen from the project's own folder."""
        here = Path(self.folder).expanduser()
        return here if here.is_dir() else Path(__file__).parents[1] / here
