"""The artefact store as an injected resource. The study travels as text, so that the Dagster UI shows which one is loaded.

Belongs here: nothing but the wiring. Freshness, locking and publishing are `sae_pipeline.store`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

from resources.process import process_tag

if TYPE_CHECKING:
    from sae_pipeline.store import ArtifactStore
    from sae_pipeline.study import Study


class Store(dg.ConfigurableResource):
    """Where the artefacts of one study live, and the study itself."""

    study_json: str = Field(description="the whole study, validated when this code location was loaded")
    study_file: str = Field(default="", description="its file; a build is refused when it was edited after loading")
    root: str = Field(default="data", description="folder that holds one folder per study")
    _artifacts: "ArtifactStore | None" = PrivateAttr(default=None)

    @classmethod
    def of(cls, study: "Study", root: Path | str = "data", study_file: Path | str | None = None) -> "Store":
        """The resource for a study object."""
        return cls(study_json=study.model_dump_json(), study_file=str(study_file or ""), root=str(root))

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Say which process executes the run, so that a killed one can be closed."""
        if context.run is not None and context.instance is not None:
            context.instance.add_run_tags(context.run.run_id, process_tag())

    @property
    def artifacts(self) -> "ArtifactStore":
        """The store that reads and publishes."""
        if self._artifacts is None:
            import json

            from sae_pipeline.store import ArtifactStore
            from sae_pipeline.study import parse_study

            self._artifacts = ArtifactStore(parse_study(json.loads(self.study_json)), self.root, self.study_file or None)
        return self._artifacts

    @property
    def study(self) -> "Study":
        """The validated study."""
        return self.artifacts.study
