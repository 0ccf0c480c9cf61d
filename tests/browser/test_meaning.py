"""Search by meaning: what it finds with real sentence embeddings, made once, kept, made again when texts change."""

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

from sae_pipeline.browser.database import Database
from sae_pipeline.browser.feature_table import search
from sae_pipeline.browser.meaning import MeaningIndex
from sae_pipeline.browser.parameters import FeatureFilter
from sae_pipeline.interpret.embedding import SentenceEmbedder
from tests.synthetic_analysis import synthetic_tables, write_synthetic_analysis

TEXTS = [
    "Fires on ships and sailors.",
    "Fires on bread and flour.",
    "Fires on verdicts of a court.",
    "Fires on closing brackets.",
]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """Features of one size say one of four things."""
    tables = synthetic_tables()
    said = [TEXTS[feature % 4] for feature in tables["explanations"]["unit_id"]]
    tables["explanations"] = tables["explanations"].with_columns(text=pl.when(pl.col("status") == "ok").then(pl.Series(said)))
    return Database(write_synthetic_analysis(tmp_path / "analysis.duckdb", tables))


def when_ready(index: MeaningIndex, database: Database, query: str) -> dict[str, float]:
    with database.cursor() as cursor:
        cursor.need_search_table()
        for _ in range(600):
            if (near := index.search(cursor, query)) is not None:
                return near
            time.sleep(0.05)
    raise AssertionError(f"never ready: {index.n_done} of {index.n_texts}, {index.problem}")


def test_the_nearest_texts_are_those_of_the_same_meaning(database: Database, tmp_path: Path):
    near = when_ready(MeaningIndex(tmp_path / "vectors"), database, "a boat at sea")
    assert next(iter(near)) == TEXTS[0]
    vectors = SentenceEmbedder().texts(["a boat at sea", *TEXTS])
    assert [near[text] for text in TEXTS] == pytest.approx(list(vectors[1:] @ vectors[0]), abs=5e-3)
    with database.cursor() as cursor:
        cursor.need_search_table()
        total, rows = search(cursor, FeatureFilter(q="a boat at sea", by="meaning", size=64), near)
    assert total == 63 and all(row["text"] == TEXTS[0] for row in rows[:16]) and rows[16]["text"] != TEXTS[0]


def test_vectors_are_kept_and_made_again_for_other_texts(database: Database, tmp_path: Path):
    folder = tmp_path / "vectors"
    when_ready(MeaningIndex(folder), database, "x")
    (file,) = folder.glob("*.npy")
    assert np.load(file).shape[0] == len(TEXTS)
    again = MeaningIndex(folder)
    with database.cursor() as cursor:
        cursor.need_search_table()
        assert again.search(cursor, "x") is not None, "kept vectors were not used"
    other = Database(write_synthetic_analysis(tmp_path / "other.duckdb"))
    assert set(when_ready(again, other, "x")) != set(TEXTS)
    assert [name.name for name in folder.glob("*.npy")] != [file.name]


def test_the_page_says_how_far_it_is_and_then_finds(client: TestClient):
    first = client.get("/features?q=sailing&by=meaning")
    assert first.status_code == 200
    for _ in range(600):
        page = client.get("/features?q=sailing&by=meaning").text
        if "Explanations are being read" not in page:
            break
        time.sleep(0.05)
    assert "not possible" not in page and "ship" in page.split("<tbody>")[1].split("</tr>")[0]


def test_embedding_stops_when_the_server_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tables = synthetic_tables()
    database = Database(write_synthetic_analysis(tmp_path / "analysis.duckdb", tables))
    index = MeaningIndex(tmp_path / "vectors")
    monkeypatch.setattr("sae_pipeline.browser.meaning.BATCH", 1)
    monkeypatch.setattr(index, "_embed", lambda texts: time.sleep(0.05) or np.zeros((len(texts), 4), np.float32))
    with database.cursor() as cursor:
        cursor.need_search_table()
        assert index.search(cursor, "x") is None
    index.close()
    assert index._worker is not None and not index._worker.is_alive()
    assert index.n_done < index.n_texts and not list(tmp_path.glob("vectors/*.npy"))
