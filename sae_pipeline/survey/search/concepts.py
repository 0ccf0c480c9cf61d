"""Concept files: what is looked for, in texts written beforehand. See `concepts/` for the shipped ones; anyone may add more."""

from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sae_pipeline.errors import UserError
from sae_pipeline.survey.completeness.mentions import read_concepts as read_family_words
from sae_pipeline.survey.measurement import files_digest

WORDS = "words.yaml"


class Texts(BaseModel):
    """Texts with the concept, and texts of the same kind without it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    positives: list[str] = Field(min_length=2)
    negatives: list[str] = Field(min_length=2)


class Concept(Texts):
    """One concept. `label` and `other` are the words that attribution compares, each with its leading space."""

    name: str
    family: str
    safety: bool = False
    label: str
    other: str
    held_out: Texts

    @cached_property
    def texts(self) -> list[str]:
        """All of them: positives and negatives to search with, then the held-out ones."""
        return [*self.positives, *self.negatives, *self.held_out.positives, *self.held_out.negatives]

    @cached_property
    def positive_I(self) -> np.ndarray:
        """Which of `texts` have the concept."""
        counts = (len(self.positives), len(self.negatives), len(self.held_out.positives), len(self.held_out.negatives))
        return np.repeat([True, False, True, False], counts)

    @cached_property
    def held_out_I(self) -> np.ndarray:
        """Which of `texts` are never searched with."""
        n_train = len(self.positives) + len(self.negatives)
        return np.arange(len(self.texts)) >= n_train


class Templates(BaseModel):
    """Where a single word is looked for; `{word}` and `{other}` stand for words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    single: str
    sets: list[str] = Field(min_length=2)
    negatives: list[str] = Field(min_length=1)
    attribution: str


class Words(BaseModel):
    """Single words that may have a feature of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    templates: Templates
    words: list[str]
    families: bool = False
    """Whether the words of completeness's families are looked for too."""

    @cached_property
    def candidates(self) -> list[str]:
        """Every word once, whatever its case, as it is written first."""
        of_families = [each.word for each in read_family_words()[0]] if self.families else []
        first: dict[str, str] = {}
        for word in [*self.words, *of_families]:
            first.setdefault(word.lower(), word)
        return list(first.values())


def read_concepts(folder: Path) -> list[Concept]:
    """Every concept file in order of name. Raises `UserError` for a folder without one, or a file that is none."""
    files = [file for file in sorted(folder.glob("*.yaml")) if file.name != WORDS]
    if not files:
        raise UserError(
            "survey.concept_search.folder", f"{folder} holds no concept file", "Name the folder with `concepts/*.yaml`."
        )
    return [_read(file, Concept) for file in files]


def read_words(folder: Path) -> Words | None:
    """The single words, None where the folder has no such file."""
    file = folder / WORDS
    return _read(file, Words) if file.is_file() else None


def concepts_sha(folder: Path) -> str:
    """Digest of every file, and of the families' files where they are asked for."""
    words = read_words(folder)
    families = read_family_words()[1] if words is not None and words.families else []
    return files_digest(*sorted(folder.glob("*.yaml")), *families)


def _read(file: Path, kind):
    try:
        return kind.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else "is not valid YAML"
        raise UserError(str(file), what, "Compare it with a shipped concept file.") from error
