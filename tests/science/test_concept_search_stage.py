"""The stage `concept_search` on the finished tiny study: its tables, and what is left of it after a kill."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import yaml

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.study_survey_search import ConceptSearch
from sae_pipeline.survey.search import build
from sae_pipeline.survey.search.build import Sources, build_concept_search
from sae_pipeline.survey.search.concepts import Words, read_words
from sae_pipeline.survey.search.known_words import KnownWord
from sae_pipeline.survey.search.measure import FIGURE
from sae_pipeline.tables.files import check_file
from tests.conftest import TOPICS
from tests.science.test_concept_search import SHIPPED, concept


def tiny_search(finished_study, folder: Path) -> tuple[Sources, ConceptSearch]:
    """The finished tiny study with two concepts of its own and two words."""
    store = finished_study.store
    folder.mkdir()
    for topic, rival in (("harbour", "kitchen"), ("garden", "court")):
        held = concept(topic, rival)
        (folder / f"{topic}.yaml").write_text(yaml.safe_dump(held.model_dump()))
    lm = load_language_model(store.study.model, store.study.hook, dtype="float32")
    sources = Sources(
        lm, CorpusReader.open(store.path("corpus")), ActivationReader.open(store.path("activations")), store.path("sae", 64),
        store.path("feature_stats", 64),
    )  # fmt: skip
    return sources, ConceptSearch(
        folder=str(folder), n_sample_tokens=600, n_sort_pairs=20, n_probe_train=200, n_probe_test=200
    )  # fmt: skip


def test_a_killed_search_goes_on_where_it_was_and_ends_with_the_same_bytes(finished_study, tmp_path: Path, monkeypatch):
    sources, settings = tiny_search(finished_study, tmp_path / "concepts")
    shipped = read_words(SHIPPED)
    assert shipped is not None
    single = [word for topic in TOPICS.values() for word in topic if len(sources.lm.tokenize(f" {word}", bos=False)) == 1]
    words = Words(templates=shipped.templates, words=single[:2])
    known = [KnownWord(word, feature, 0.9, 30) for feature, word in enumerate(words.words)]
    monkeypatch.setattr(build, "read_words", lambda folder: words)
    monkeypatch.setattr(build, "known_words", lambda *_: known)
    made: list[str] = []

    def watched(name: str, what, stop: int | None):
        def call(*args):
            made.append(name)
            if made.count(name) == stop:
                raise KeyboardInterrupt
            return what(*args)

        return call

    parts = {name: getattr(build, name) for name in ("search", "searched_word", "probe", "contrastive")}

    def run(work: Path, dies_at: str | None = None) -> dict[str, bytes]:
        made.clear()
        work.mkdir(exist_ok=True)
        for name, what in parts.items():
            monkeypatch.setattr(build, name, watched(name, what, 2 if name == dies_at else None))
        build_concept_search(sources, settings, True, work)
        return {file.name: file.read_bytes() for file in work.iterdir()}

    whole = run(tmp_path / "whole")
    n_of = Counter(made)
    assert n_of["search"] == n_of["searched_word"] == n_of["contrastive"] == 2 <= n_of["probe"] and len(whole) == 6
    once = []
    for name in parts:  # dies in the second part of each kind, one kind after the other
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", name)
        once += made[:-1]
    assert run(tmp_path / "killed") == whole
    assert Counter(once + made) == n_of


def test_the_stage_writes_its_tables(finished_study, tmp_path: Path):
    sources, settings = tiny_search(finished_study, tmp_path / "concepts")
    work = tmp_path / "work"
    work.mkdir()
    outcome = build_concept_search(sources, settings, True, work)
    assert outcome.metadata["n_concepts"] == 2
    assert check_file("concept_search_results", work / "concept_search_results.parquet") >= 8
    assert check_file("concept_search_words", work / "concept_search_words.parquet") == 0
    assert check_file("concept_search_probes", work / "concept_search_probes.parquet") >= 6
    assert all((work / f"{FIGURE}.{theme}.png").read_bytes().startswith(b"\x89PNG") for theme in ("light", "dark"))
    rows = pl.read_parquet(work / "measurements.parquet")
    status = dict(rows.select("measurement", "status").iter_rows())
    assert status["contrastive_accuracy"] == status["few_feature_classifier"] == status["sort_accuracy"] == "ok"
    assert status["hit_at_10_prompt_sets"] == "not_testable"
    assert rows.filter(pl.col("measurement") == "safety_families_found")["ceiling"].item() <= 2
    assert rows.filter(pl.col("measurement") == "safety_families_found")["figure"].item() == FIGURE
