"""The committed texts of the case studies: YAML files beside this module, filled by `string.Template` ($name)."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, TypeVar

import yaml

from sae_pipeline.survey.measurement import files_digest

FOLDER = Path(__file__).parent
Item = TypeVar("Item")
HALVES = ("choose", "report")


@cache
def load(name: str) -> dict[str, Any]:
    """One file of texts, by its stem."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def digest(*names: str) -> str:
    """Digest of the files that a measurement was taken with."""
    return files_digest(*(FOLDER / f"{name}.yaml" for name in names))


def fill(template: str, **values: object) -> str:
    """The template with its names replaced; a name without a value raises `KeyError`."""
    return Template(template).substitute({name: str(value) for name, value in values.items()})


def half_of(place: int) -> str:
    """Even places choose, odd places report."""
    return HALVES[place % 2]


def in_half(items: Sequence[Item], half: str) -> list[Item]:
    """The items of one half, by place."""
    return [item for place, item in enumerate(items) if half_of(place) == half]
