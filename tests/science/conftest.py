"""The made-up analysis and its size comparison, drawn once: figures are the slow part of what reads them."""

from pathlib import Path

import pytest

from sae_pipeline.plots.comparison import build_size_comparison
from sae_pipeline.store import Outcome
from tests.synthetic_analysis import write_synthetic_analysis


@pytest.fixture(scope="session")
def made_up_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`made-up0/analysis.duckdb` with the rows of `synthetic_tables()`."""
    return write_synthetic_analysis(tmp_path_factory.mktemp("made-up") / "analysis.duckdb")


@pytest.fixture(scope="session")
def made_up_comparison(made_up_database: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Its size comparison: (folder, outcome)."""
    folder = tmp_path_factory.mktemp("comparison")
    return folder, build_size_comparison(made_up_database, folder)
