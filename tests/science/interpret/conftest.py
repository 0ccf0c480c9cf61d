"""The planted world, read once: as an index, as artefact folders, and the sentence embeddings."""

import pytest

from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.rules import RuleIndex
from tests.science.interpret_world import Folders, make_tokens, make_units, write_artefacts


@pytest.fixture(scope="package")
def index() -> RuleIndex:
    return RuleIndex(make_tokens(n_documents=160))


@pytest.fixture(scope="package")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder()


@pytest.fixture(scope="package")
def folders(index: RuleIndex, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_artefacts(tmp_path_factory.mktemp("world"), index.tokens, make_units(index.tokens))
