"""What all pages share: the study, its folders, the database, the templates."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from starlette.responses import HTMLResponse

from sae_pipeline.browser.database import Database
from sae_pipeline.browser.feature_data import FeatureKey
from sae_pipeline.browser.meaning import MeaningIndex
from sae_pipeline.browser.playground import Playground
from sae_pipeline.report.pages import environment
from sae_pipeline.study import FolderModel, HubModel, Study

WHY = {  # status of an explanation or score -> what a reader is told
    "refusal": "the judge refused", "truncated": "the judge's answer was cut off", "invalid": "the judge's answer was not usable",
    "error": "the judge could not be reached", "budget": "the budget was used up", "not_run": "not run",
    "too_few_examples": "too few examples: the feature is active too rarely", "ok": "",
}  # fmt: skip


@dataclass
class State:
    """One study behind one server."""

    study: Study
    root: Path
    device: str = "cpu"
    dagster: str | None = None  # address of the Dagster UI beside this server
    database: Database = field(init=False)
    playground: Playground = field(init=False)
    meaning: MeaningIndex = field(init=False)

    def __post_init__(self) -> None:
        self.database = Database(self.root / "analysis.duckdb")
        self.playground = Playground(self.study, self.root, self.device)
        self.meaning = MeaningIndex(self.root / ".browser")

    @property
    def sizes(self) -> Sequence[int]:
        """SAE sizes of the study."""
        return self.study.sae.sizes

    def size_of(self, given: str | None) -> int:
        """The size that a visitor named, or the largest."""
        return next((size for size in self.sizes if str(size) == given), self.sizes[-1])

    @property
    def model_name(self) -> str:
        """The language model as people call it."""
        model = self.study.model
        if isinstance(model, HubModel):
            return model.id
        return Path(model.path).name if isinstance(model, FolderModel) else model.file

    @property
    def hook_name(self) -> str:
        """Where activations were read."""
        site = {"residual": "residual stream after", "mlp_output": "MLP output of"}[self.study.hook.site]
        return f"{site} block {self.study.hook.after_block}"

    @cached_property
    def _environment(self) -> Environment:
        made = environment("sae_pipeline.browser")
        made.globals |= {
            "why": WHY, "sizes": self.sizes, "study_name": self.study.name, "model_name": self.model_name,
            "hook_name": self.hook_name, "exported": False, "root": "/", "url_of": lambda key: f"/{key.size}/{key.feature}",
            "dagster": self.dagster,
        }  # fmt: skip
        return made

    def link_relative_to(self, root: str, keys: Collection[FeatureKey]) -> None:
        """From here on pages are rendered for a folder: `root` leads to it, and only `keys` have pages to link to."""
        self._environment.globals |= {
            "exported": True, "root": root, "url_of": lambda key: f"{root}{key.size}/{key.feature}.html" if key in keys else None,
        }  # fmt: skip

    def render(self, template: str, **context: Any) -> str:
        """A page as text."""
        return self._environment.get_template(template).render(context)

    def page(self, template: str, status: int = 200, **context: Any) -> HTMLResponse:
        """A rendered page."""
        return HTMLResponse(self.render(template, **context), status)


STATIC = Path(str(files("sae_pipeline.browser").joinpath("static")))
