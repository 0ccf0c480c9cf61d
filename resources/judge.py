"""The language-model judge as an injected resource. With backend `none` no client exists and no socket is opened."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from sae_pipeline.judge.open import AskingJudge
    from sae_pipeline.store import ArtifactStore


class Judge(dg.ConfigurableResource):
    """Who judges explanations besides the offline methods. Settings and caps stand in the study, the key in the environment."""

    backend: str = Field(default="none", description="none: offline methods only")

    def open(self, artifacts: "ArtifactStore", run_id: str) -> AbstractContextManager["AskingJudge | None"]:
        """The study's judge with its ledger open; None for backend `none`. Spending is capped per study and per `run_id`."""
        from sae_pipeline.judge.open import open_judge

        return open_judge(artifacts.study.judge, artifacts.root, run_id)
