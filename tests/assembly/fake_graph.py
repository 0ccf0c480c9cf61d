"""The whole graph with builders that only write a line: what a stage writes depends on its study fields and its upstream bytes.

`rounding` makes a stage coarse, so that a change above it can leave its bytes equal. `fail` makes one artefact raise.
"""

from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from assets.publishing import Rebuild, StageAsset, publish, size_of
from assets.verdicts import Verdict
from resources.store import Store
from sae_pipeline.errors import UserError
from sae_pipeline.stages import STAGES, study_digest
from sae_pipeline.store import ArtifactStore, Outcome

FILE = "content.txt"


@dataclass
class Fake:
    """Behaviour and record of the fake graph."""

    built: list[tuple[str, int | None]] = field(default_factory=list)
    coarse: set[str] = field(default_factory=set)
    user_error: tuple[str, int | None] | None = None
    bug: tuple[str, int | None] | None = None
    interrupt: tuple[str, int | None] | None = None
    bad_check: tuple[str, int | None] | None = None
    incomplete: set[tuple[str, int | None]] = field(default_factory=set)

    def assets(self) -> list[StageAsset]:
        """One StageAsset per stage."""
        return [self._asset(stage) for stage in STAGES]

    def _asset(self, stage: str) -> StageAsset:
        def function(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
            """A fake."""
            size = size_of(context, stage)
            yield from publish(
                context, store.artifacts, stage, lambda work: self._build(store.artifacts, stage, size, work),
                checks={"schema": lambda folder: Verdict((stage, size) != self.bad_check, "made to fail")},
                force=config.force, headline=("n_letters",),
            )  # fmt: skip

        function.__name__ = stage
        return StageAsset(function, frozenset({"text"}), {"schema": "passes unless told otherwise"}, None)

    def _build(self, store: ArtifactStore, stage: str, size: int | None, work: Path) -> Outcome:
        if (stage, size) == self.user_error:
            raise UserError(stage, "was made to fail", "Stop making it fail.")
        if (stage, size) == self.bug:
            raise ZeroDivisionError("a bug")
        if (stage, size) == self.interrupt:
            raise KeyboardInterrupt
        self.built.append((stage, size))
        parts = [study_digest(store.study, stage, size)]
        if stage not in self.coarse:
            for _, parent, parent_size in store._parents(stage, size):
                parts.append((store.path(parent, parent_size) / FILE).read_text(encoding="utf-8"))
        text = " ".join(parts)
        (work / FILE).write_text(text, encoding="utf-8")
        return Outcome({"n_letters": len(text)}, incomplete="3 answers are missing" if (stage, size) in self.incomplete else "")
