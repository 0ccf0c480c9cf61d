"""The artefact store: freshness by digest, atomic publishing, resume, and what users are told."""

import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from safetensors import SafetensorError

from sae_pipeline import progress
from sae_pipeline.errors import UserError
from sae_pipeline.stages import STAGES, study_digest
from sae_pipeline.store import ArtifactStore, Outcome
from sae_pipeline.study import parse_study

RAW = {
    "name": "unit",
    "model": {"source": "hub", "id": "nobody/model"},
    "hook": {"after_block": 1},
    "corpus": {"sources": [{"kind": "builtin", "name": "dialogues", "tokens": 1000}]},
    "sae": {"sizes": [64, 128]},
}


def store_of(tmp_path: Path, **changes) -> ArtifactStore:
    return ArtifactStore(parse_study({**RAW, **changes}), root=tmp_path)


def writer(text: str, calls: list[str] | None = None):
    def build(work: Path) -> Outcome:
        (work / "a.txt").write_text(text, encoding="utf-8")
        if calls is not None:
            calls.append(text)
        return Outcome({"n": len(text)})

    return build


def test_build_publishes_once_and_reuses_until_something_changes(tmp_path: Path) -> None:
    store, calls = store_of(tmp_path), []
    first = store.build("corpus", None, writer("hello", calls))
    again = store.build("corpus", None, writer("hello", calls))
    assert (first.reused, again.reused, calls) == (False, True, ["hello"])
    assert store.freshness("corpus").state == "fresh"
    assert store.freshness("activations").state == "missing"
    edited = store_of(tmp_path, corpus={**RAW["corpus"], "context": 64})
    assert edited.freshness("corpus").why == "the study changed"
    assert store.build("corpus", None, writer("hello", calls), force=True).reused is False


def test_flipped_byte_is_corrupt_and_only_its_bytes_are_made_again(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    made: list[str] = []

    def two_parts(work: Path) -> Outcome:
        for name in ("part-0", "part-1"):
            if not (work / name).exists():
                made.append(name)
                (work / name).write_bytes(name.encode() * 100)
        return Outcome()

    version = store.build("corpus", None, two_parts).manifest.data_version
    file = store.path("corpus") / "part-1"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    assert store.freshness("corpus").state == "corrupt"
    with pytest.raises(UserError, match="digest mismatch"):
        store.require("corpus")
    made.clear()
    assert store.build("corpus", None, two_parts).manifest.data_version == version
    assert made == ["part-1"]


def test_children_are_stale_only_when_the_parents_bytes_differ(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.build("corpus", None, writer("x"))
    store.build("activations", None, writer("y"))
    store.build("corpus", None, writer("x"), force=True)
    assert store.freshness("activations").state == "fresh"
    store.build("corpus", None, writer("z"), force=True)
    stale = store.freshness("activations")
    assert (stale.state, stale.why) == ("stale", "changed upstream: corpus")


def test_a_failed_build_leaves_the_old_artefact_and_resumes_in_the_same_folder(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.build("corpus", None, writer("old"))
    seen: list[bool] = []

    def dies_once(work: Path) -> Outcome:
        seen.append((work / "half").exists())
        (work / "half").write_text("h", encoding="utf-8")
        if len(seen) == 1:
            raise KeyboardInterrupt
        return Outcome()

    with pytest.raises(KeyboardInterrupt):
        store.build("corpus", None, dies_once, force=True)
    assert (store.path("corpus") / "a.txt").read_text(encoding="utf-8") == "old"
    edited = store_of(tmp_path, corpus={**RAW["corpus"], "context": 64})
    edited.build("corpus", None, dies_once)
    assert seen == [False, False]  # other inputs, other folder: nothing of the old attempt is trusted


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.build("corpus", None, writer("kept"))
    final = store.path("corpus")
    final.rename(final.with_name(".corpus.old"))
    assert store.freshness("corpus").state == "fresh"
    assert (final / "a.txt").read_text(encoding="utf-8") == "kept"


def test_nobody_recovers_what_is_just_being_published(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.build("corpus", None, writer("old"))
    final = store.path("corpus")
    final.rename(final.with_name(".corpus.old"))
    with store._lock("corpus", None):
        assert store_of(tmp_path).manifest("corpus") is None and not final.exists()
    assert store.manifest("corpus") is not None and final.exists()


def test_who_waits_for_another_process_says_so(tmp_path: Path) -> None:
    store, seen = store_of(tmp_path), io.StringIO()

    def build() -> None:
        store_of(tmp_path).build("corpus", None, writer("theirs"))

    with progress.watch(seen), ThreadPoolExecutor(1) as pool:
        with store._lock("corpus", None):
            waiting = pool.submit(build)
            while "another process builds it" not in seen.getvalue():
                assert not waiting.done()
                time.sleep(0.01)
        waiting.result()
    assert "corpus" in seen.getvalue() and store.freshness("corpus").state == "fresh"


def test_a_manifest_that_is_cut_short_or_of_another_version_counts_as_missing(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    file = store.path("corpus") / "manifest.json"
    for change in (lambda text: text[: len(text) // 2], lambda text: text.replace('"seconds"', '"minutes"')):
        store.build("corpus", None, writer("x"))
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
        assert store.freshness("corpus").state == "missing"
    assert store.build("corpus", None, writer("x")).reused is False


def test_a_parent_that_changes_during_a_build_makes_the_child_stale(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.build("corpus", None, writer("old"))

    def build(work: Path) -> Outcome:
        (work / "copy.txt").write_bytes((store.path("corpus") / "a.txt").read_bytes())
        store_of(tmp_path).build("corpus", None, writer("new"), force=True)  # as another process may
        return Outcome()

    store.build("activations", None, build)
    assert store.freshness("activations").why == "changed upstream: corpus"


def test_full_disk_is_one_sentence_and_keeps_the_finished_part(tmp_path: Path) -> None:
    store = store_of(tmp_path)

    def fills_the_disk(work: Path) -> Outcome:
        (work / "done").write_text("d", encoding="utf-8")
        with Path("/dev/full").open("w", encoding="utf-8") as full:  # the kernel's own ENOSPC
            full.write("x" * 10)
        return Outcome()

    with pytest.raises(UserError, match="disk is full"):
        store.build("corpus", None, fills_the_disk)
    assert not store.path("corpus").exists()
    assert list((tmp_path / "unit" / ".work").rglob("done"))


@pytest.mark.parametrize(
    "error",  # what these libraries raised on a full disk: not an OSError, and without an errno
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        pl.exceptions.ComputeError("parquet: File out of specification: underlying IO error: No space left on device"),
    ],
)
def test_full_disk_in_the_words_of_a_library_is_one_sentence(tmp_path: Path, error: Exception) -> None:
    def fills_the_disk(work: Path) -> Outcome:
        raise error

    with pytest.raises(UserError, match="disk is full"):
        store_of(tmp_path).build("corpus", None, fills_the_disk)


def test_missing_upstream_names_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="corpus: is not there yet"):
        store_of(tmp_path).build("activations", None, writer("y"))


def test_study_edited_after_loading_is_refused(tmp_path: Path) -> None:
    import yaml

    file = tmp_path / "unit.yaml"
    file.write_text(yaml.safe_dump(RAW), encoding="utf-8")
    store = ArtifactStore(parse_study(RAW), root=tmp_path, study_file=file)
    store.build("corpus", None, writer("x"))
    file.write_text(yaml.safe_dump({**RAW, "hook": {"after_block": 2}}), encoding="utf-8")
    with pytest.raises(UserError, match="edited after"):
        store.build("corpus", None, writer("x"))


def test_manifest_lists_every_file_with_its_digest(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.build("corpus", None, writer("x"))
    manifest = json.loads((store.path("corpus") / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["files"]) == ["a.txt"]
    shutil.rmtree(store.path("corpus"))
    assert store.freshness("corpus").state == "missing"


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"steer": {"factors": [0, 1]}}, {"steering_evals"}),
        ({"score": {"examples_per_interval": 7}}, {"specificity_scores"}),
        # The explanations are scored on the same sample of features.
        ({"score": {"n_features": 7}}, {"explanations", "specificity_scores"}),
        ({"sae": {"sizes": [64, 128], "epochs": 2}}, {"sae"}),
        ({"sae": {"sizes": [64, 128, 256]}}, {"analysis_tables"}),
        ({"random_model": {"seed": 1}}, {"random_model"}),
        # Addition is evaluated on the largest size alone.
        # and the random model gets an SAE of the smallest one.
        ({"sae": {"sizes": [32, 64]}}, {"analysis_tables", "steering_evals", "random_model"}),
        ({"hook": {"after_block": 0}}, {"activations", "random_model"}),
        ({"judge": {"backend": "none"}}, set()),
    ],
)
def test_stage_digests_cover_exactly_their_fields(change: dict, touched: set[str]) -> None:
    before, after = parse_study(RAW), parse_study({**RAW, **change})
    main = [name for name, stage in STAGES.items() if not stage.in_survey]
    assert {name for name in main if study_digest(before, name, 64) != study_digest(after, name, 64)} == touched


def test_a_survey_stage_depends_on_its_own_section_and_on_the_sizes() -> None:
    before = parse_study(RAW)
    other = parse_study({**RAW, "survey": {"neighbourhoods": {"n_neighbours": 7}}})
    assert {name for name in STAGES if study_digest(before, name, 64) != study_digest(other, name, 64)} == {"neighbourhoods"}
    sizes = parse_study({**RAW, "sae": {"sizes": [64, 128, 256]}})
    assert study_digest(before, "neighbourhoods") != study_digest(sizes, "neighbourhoods")
