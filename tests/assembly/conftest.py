"""A tiny pipeline in a temporary folder whose builders are fakes: every rule of the assembly without any computing."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from sae_pipeline.definitions import build_defs
from sae_pipeline.runner import Report, Wanted, run_pipeline
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study
from tests.assembly.fake_graph import Fake
from tests.conftest import tiny_study_mapping


class Pipeline:
    """A study file, a data folder, an in-memory Dagster instance, and fake builders."""

    def __init__(self, folder: Path, mapping: dict, instance: dg.DagsterInstance) -> None:
        self.file = folder / "study.yaml"
        self.root = folder / "data"
        self.mapping = mapping
        self.instance = instance
        self.fake = Fake()
        self.write()

    def write(self) -> None:
        """Write the study file from `mapping`."""
        self.file.write_text(yaml.safe_dump(self.mapping), encoding="utf-8")

    @property
    def store(self) -> ArtifactStore:
        """A store for the file as it is now."""
        return ArtifactStore(load_study(self.file), self.root, self.file)

    def defs(self) -> dg.Definitions:
        """Definitions for the file as it is now."""
        return build_defs(load_study(self.file), root=self.root, study_file=self.file, stage_assets=self.fake.assets())

    def run(self, **wanted) -> Report:
        """Run as the command line does; `fake.built` then holds what this run built."""
        self.fake.built.clear()
        return run_pipeline(self.defs(), self.store, self.instance, Wanted(**wanted))


@pytest.fixture
def pipeline(tmp_path: Path, tiny_model_folder: Path, tiny_text_folder: Path) -> Iterator[Pipeline]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Pipeline(tmp_path, tiny_study_mapping(tiny_model_folder, tiny_text_folder), instance)
