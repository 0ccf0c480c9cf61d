"""The analysis database when something is wrong: foreign and locked files, damaged artefacts, rows that break a schema."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandera.errors
import polars as pl
import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.store import ArtifactStore, Outcome
from sae_pipeline.tables import files
from sae_pipeline.tables.build import DATABASE, build_analysis_db
from sae_pipeline.tables.schemas import conform
from tests.published_analysis import publish
from tests.synthetic_analysis import SIZES, synthetic_tables


@pytest.fixture(scope="module")
def tables():
    return synthetic_tables()


@pytest.fixture(scope="module")
def store(tiny_study, tmp_path_factory, tables):
    assert tuple(tiny_study.sae.sizes) == SIZES
    store = ArtifactStore(tiny_study, tmp_path_factory.mktemp("data"))
    publish(store, tables)
    store.build("analysis_tables", None, lambda work: build_analysis_db(store, work))
    return store


def rebuild(store):
    return store.build("analysis_tables", None, lambda work: build_analysis_db(store, work), force=True)


@pytest.fixture
def copy(store, tmp_path):
    """The same artefacts in another place, with a database that the test may spoil."""
    other = ArtifactStore(store.study, tmp_path)
    shutil.copytree(store.root, other.root)
    return other


def test_a_foreign_file_stays_as_it_is(copy):
    (copy.root / DATABASE).write_text("my notes", encoding="utf-8")
    with pytest.raises(UserError, match="Move the file away"):
        rebuild(copy)
    assert (copy.root / DATABASE).read_text(encoding="utf-8") == "my notes"


def test_a_database_that_another_process_writes_is_refused_and_unharmed(copy):
    before = (copy.root / DATABASE).read_bytes()
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", hold, str(copy.root / DATABASE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="open for writing in another program"):
            rebuild(copy)
        holder.stdin.write("\n")
        holder.stdin.flush()
    assert (copy.root / DATABASE).read_bytes() == before
    rebuild(copy)


def test_a_reader_keeps_the_file_it_opened_while_a_new_one_is_swapped_in(copy, tables):
    path = copy.root / DATABASE
    reader = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); sys.stdin.readline();"
    )
    reader += "print(c.execute('select count(*) from features').fetchall()[0][0], flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", reader, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "open\n"
        inode = path.stat().st_ino
        rebuild(copy)
        assert path.stat().st_ino != inode
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{len(tables['features'])}\n"


def test_a_damaged_artefact_is_refused_and_the_old_database_stays(copy):
    file = copy.path("feature_stats", 64) / "features.parquet"
    before = (copy.root / DATABASE).read_bytes()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="digest mismatch"):
        rebuild(copy)
    assert (copy.root / DATABASE).read_bytes() == before


def test_rows_that_break_a_schema_never_reach_the_database(copy):
    before = (copy.root / DATABASE).read_bytes()

    def publish_nonsense(work: Path) -> Outcome:
        frame = pl.read_parquet(copy.path("specificity_scores", 64) / "specificity_scores.parquet")
        frame.with_columns(score=pl.lit(4, pl.Int8)).write_parquet(work / "specificity_scores.parquet")
        return Outcome()

    copy.build("specificity_scores", 64, publish_nonsense, force=True)
    with pytest.raises(pandera.errors.SchemaErrors, match="in_range"):
        rebuild(copy)
    assert (copy.root / DATABASE).read_bytes() == before


def test_a_missing_size_is_named(copy):
    (copy.path("feature_stats", 64) / "manifest.json").unlink()
    with pytest.raises(UserError, match="feature_stats/64: is not there yet"):
        rebuild(copy)


def test_check_file_sees_repeats_far_apart_and_rows_of_other_sizes(tmp_path, tables, monkeypatch):
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 10)
    features = tables["features"].filter(size=64)
    path = tmp_path / "features.parquet"
    features.write_parquet(path)
    assert files.check_file("features", path, 64) == 64
    with pytest.raises(ValueError, match="other sizes than 32"):
        files.check_file("features", path, 32)
    pl.concat([features, features.head(1)]).write_parquet(path)
    with pytest.raises(ValueError, match="1 rows repeat the key"):
        files.check_file("features", path, 64)


def test_check_file_sees_disorder_between_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 10)
    path = tmp_path / "activations.parquet"

    def written(feature, token):
        rows = pl.DataFrame({"feature": feature, "token_index": token, "value": 1.0})
        conform("feature_activations", rows.head(1))
        rows.cast({"feature": pl.Int32, "token_index": pl.Int64, "value": pl.Float32}).write_parquet(path)
        return path

    assert files.check_file("feature_activations", written([0] * 10 + [1] * 10, [*range(10), *range(10)])) == 20
    for second in (range(9, 19), range(5, 15)):  # a repeat, and a step back, exactly between two batches
        with pytest.raises(pandera.errors.SchemaErrors, match="strictly_ascending"):
            files.check_file("feature_activations", written([0] * 20, [*range(10), *second]))
