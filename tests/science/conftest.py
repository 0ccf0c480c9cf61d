"""The made-up analysis with its size comparison, drawn once (figures are slow), made-up artefacts for steering, and an
SAE trained on planted activations."""

from pathlib import Path

import pytest

from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.plots.comparison import build_size_comparison
from sae_pipeline.sae.build import build_sae
from sae_pipeline.store import Outcome
from sae_pipeline.study import FolderModel, Hook
from tests.science.planted import PlantedActivations
from tests.science.trainings import SIZE, section
from tests.synthetic_analysis import write_synthetic_analysis
from tests.tiny_steering import TinyArtefacts, make_artefacts


@pytest.fixture(scope="session")
def made_up_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`made-up0/analysis.duckdb` with the rows of `synthetic_tables()`."""
    return write_synthetic_analysis(tmp_path_factory.mktemp("made-up") / "analysis.duckdb")


@pytest.fixture(scope="session")
def made_up_comparison(made_up_database: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Its size comparison: (folder, outcome)."""
    folder = tmp_path_factory.mktemp("comparison")
    return folder, build_size_comparison(made_up_database, folder)


@pytest.fixture(scope="module")
def tiny_artefacts(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyArtefacts:
    """A corpus, an SAE and feature statistics for the tiny model."""
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    return make_artefacts(lm, tmp_path_factory.mktemp("steering") / "tiny")


@pytest.fixture(scope="module")
def planted_activations() -> PlantedActivations:
    """Activations of a known dictionary."""
    return PlantedActivations()


@pytest.fixture(scope="module")
def trained_sae(planted_activations: PlantedActivations, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an SAE trained on them with `section()`, never interrupted."""
    work = tmp_path_factory.mktemp("trained")
    build_sae(planted_activations, section(), SIZE, work, {"hook": "planted"})  # pyright: ignore[reportArgumentType]
    return work
