"""A harvest of the tiny study, with shards small enough that there are several."""

import pytest

from sae_pipeline.activations import shards
from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.build import build_corpus
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.load import load_language_model
from tests.science.harvest.digests import harvest_into


@pytest.fixture(scope="module")
def lm(tiny_study):
    return load_language_model(tiny_study.model, tiny_study.hook)


@pytest.fixture(scope="module")
def corpus_folder(tiny_study, lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(tiny_study.corpus, lm.tokens, folder)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1024)


@pytest.fixture(scope="module")
def harvested(tiny_study, lm, corpus_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_TOKENS", 1024)
        outcome = harvest_into(folder, tiny_study, lm, corpus_folder)
    return folder, outcome


@pytest.fixture(scope="module")
def reader(harvested):
    return ActivationReader.open(harvested[0])


@pytest.fixture(scope="module")
def corpus(corpus_folder):
    return CorpusReader.open(corpus_folder)
