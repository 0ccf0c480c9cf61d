"""Where text comes from: local files, hub data sets, the built-in texts."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sae_pipeline.corpus.build import build_corpus
from sae_pipeline.corpus.builtin import dialogues, python_stdlib, world_factbook
from sae_pipeline.corpus.document import Document
from sae_pipeline.corpus.select import held_out_documents
from sae_pipeline.corpus.sources import read_documents
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.tokens import load_tokenizer
from sae_pipeline.study import FolderModel, HubSource
from tests.science.corpus_inputs import corpus_of, local, write_jsonl


@pytest.fixture(scope="module")
def tokens(tiny_model_folder):
    return load_tokenizer(FolderModel(source="folder", path=str(tiny_model_folder)))


def test_wrong_column_is_refused(tokens, tmp_path):
    path = write_jsonl(tmp_path / "column.jsonl", ["some text"])
    with pytest.raises(UserError, match=r"corpus.sources.column: holds no usable document.*`text` field"):
        build_corpus(corpus_of(local(path, text="body")), tokens, tmp_path)


def test_missing_hub_data_set(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = HubSource(kind="hub", id="nobody/no-such-data", tokens=100)
    with pytest.raises(UserError, match=r"corpus.sources.nobody/no-such-data.id: .*cannot be read from the Hugging Face hub"):
        next(read_documents(source, 0))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match=r"corpus.sources.none.path: no file matches"):
        next(read_documents(local(tmp_path / "none.jsonl"), 0))
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"corpus.sources.broken.path: .* is not readable as parquet"):
        next(read_documents(local(tmp_path / "broken.parquet"), 0))


# --- sources


def test_local_formats_and_globs(tmp_path):
    texts = [f"Text {i}." for i in range(6)]
    pl.DataFrame({"text": texts[:2], "language": ["French", "German"]}).write_parquet(tmp_path / "a.parquet")
    for i, text in enumerate(texts[2:]):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    documents = list(read_documents(local(tmp_path / "a.parquet"), 0))
    assert {(document.text, document.language) for document in documents} == {("Text 0.", "French"), ("Text 1.", "German")}
    documents = list(read_documents(local(tmp_path / "*.txt", language="English"), 0))
    assert sorted(document.text or "" for document in documents) == texts[2:]
    assert {document.language for document in documents} == {"English"}


def test_factbook_is_prose():
    documents = list(world_factbook())
    text = "\n".join(document.text or "" for document in documents)
    assert len(documents) > 2000 and len(text) > 2_000_000
    assert not any(tag in text for tag in ("<p>", "<strong>", "</", "<br", "&nbsp;", "&amp;"))
    geography = next(document for document in documents if document.title == "Iceland: Geography")
    assert (geography.text or "").startswith("Iceland: Geography\n\nLocation: Northern Europe, island between")


def test_stdlib_is_one_document_per_file():
    documents = list(python_stdlib())
    by_title = {document.title: document for document in documents}
    assert len(by_title) == len(documents) > 300
    assert by_title["json/decoder.py"].text == Path(json.decoder.__file__).read_text(encoding="utf-8")
    assert not any("site-packages" in title for title in by_title)


def test_dialogue_translations_stay_on_one_side():
    documents = list(dialogues())
    assert len({document.language for document in documents}) > 20
    held_out = held_out_documents([document.group for document in documents], 0.15, np.random.default_rng(0))
    side: dict[str, set] = {}
    for document, out in zip(documents, held_out, strict=True):
        topic = document.title.split(": ")[1].rsplit(" ", 1)[0]
        if topic in ("food", "sports", "ai", "humor"):  # topics that were translated
            side.setdefault(topic, set()).add(bool(out))
    assert all(len(sides) == 1 for sides in side.values())
    assert 0.1 < held_out.mean() <= 0.15 + 1 / len(documents)


def test_held_out_groups_are_drawn_by_seed():
    groups = [f"g{i // 3}" for i in range(60)]
    draws = [held_out_documents(groups, 0.2, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()
    assert all(draw.sum() == 12 for draw in draws)
    assert held_out_documents(["a"] * 9 + ["b"] * 3, 0.1, np.random.default_rng(0)).tolist() == [False] * 9 + [True] * 3
    with pytest.raises(UserError, match="single document"):
        held_out_documents(["a", "a"], 0.1, np.random.default_rng(0))


def test_document_order_depends_on_the_seed(tmp_path):
    path = write_jsonl(tmp_path / "order.jsonl", [f"Text {i}" for i in range(30)])
    orders = [[document.text for document in read_documents(local(path), seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])  # pyright: ignore


# --- vocabulary


def test_document_is_plain_data():
    assert Document("a", "b", "c", "d") == Document("a", "b", "c", "d")
