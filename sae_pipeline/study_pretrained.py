"""SAEs made elsewhere. A section of `sae_pipeline.study`, in the place of `sae`."""

from typing import Literal

from pydantic import Field, model_validator

from sae_pipeline.study_inputs import Section, Sizes

FormatName = Literal["saelens", "gemma_scope", "gemma_scope_2", "sparsify", "dictionary_learning", "openai", "own"]


class PretrainedSae(Section):
    """SAEs made elsewhere are imported instead of trained; everything after that runs unchanged (docs/formats.md)."""

    source: Literal["pretrained"]
    format: FormatName = Field(description="what the files are; never guessed")
    path: str | None = Field(default=None, description="folder (or weights file) on this machine; either this or id")
    id: str | None = Field(default=None, description="repository on the Hugging Face hub, owner/name")
    revision: str | None = Field(default=None, description="branch, tag or commit of id; pin a commit to repeat the study")
    sizes: Sizes = Field(description="numbers of features, one SAE each, increasing")
    folders: dict[int, str] = Field(
        default={}, description="where each size lies below path or id; needed for more than one, default: the place itself"
    )
    input_scale: float | None = Field(
        default=None, gt=0, description="factor on activations that a SAELens file asks for and does not hold"
    )

    @model_validator(mode="after")
    def _one_place_for_each(self) -> "PretrainedSae":
        if (self.path is None) == (self.id is None):
            raise ValueError("give path (a folder here) or id (a repository on the hub), one of them")
        if self.revision is not None and self.id is None:
            raise ValueError("revision belongs to id")
        if unknown := sorted(set(self.folders) - set(self.sizes)):
            raise ValueError(f"folders names size {unknown[0]}, but sizes are {self.sizes}")
        if len(self.sizes) > 1 and (missing := [size for size in self.sizes if size not in self.folders]):
            raise ValueError(f"folders has no entry for size {missing[0]}; several sizes cannot lie in one place")
        return self
