"""The section `survey`: what `sae-pipeline run --job survey` makes after the main run, with a budget for each part."""

from pydantic import Field

from sae_pipeline.study_inputs import Section


class Neighbourhoods(Section):
    """Nearest features and the map."""

    n_neighbours: int = Field(
        default=15, ge=2, le=100, description="nearest features kept per feature and size, and what the map is made from"
    )
    min_dist: float = Field(default=0.05, ge=0, le=1, description="how close UMAP may put features on the map")
    seed: int = Field(default=0, description="of every random choice of this section")


class Survey(Section):
    """What `sae-pipeline run --job survey` makes after the main run: one section for each of its stages."""

    neighbourhoods: Neighbourhoods = Neighbourhoods()
