"""What is known of an artefact: what a builder hands back, what the manifest says, whether it is current."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Outcome:
    """What a builder hands back.

    `metadata`: JSON-able numbers and strings for the UI and the tables. `data_version`: only where files are not byte-stable
    (a DuckDB file); by default the digest of the files. `also`: files outside the artefact's folder that belong to it.
    `incomplete`: what is missing for reasons that may pass (a server that was down); the artefact is published and good to read,
    and the next run tries again.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    data_version: str | None = None
    also: tuple[Path, ...] = ()
    incomplete: str = ""


@dataclass(frozen=True)
class Manifest:
    """Everything known about a published artefact."""

    stage: str
    size: int | None
    code_version: str
    study_digest: str
    inputs: dict[str, str]
    files: dict[str, str]
    data_version: str
    started: str
    seconds: float
    metadata: dict[str, Any]
    incomplete: str = ""


@dataclass(frozen=True)
class Freshness:
    """Whether an artefact is current, and why not. `incomplete`: nothing changed, but something may be made up for."""

    state: Literal["fresh", "stale", "missing", "corrupt"]
    why: str = ""
    incomplete: bool = False


@dataclass(frozen=True)
class Built:
    """Result of `build`: the manifest, and whether the artefact was already fresh."""

    manifest: Manifest
    path: Path
    reused: bool
