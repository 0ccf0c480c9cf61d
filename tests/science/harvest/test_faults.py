"""The harvest on its way through faults: damaged shards, full disk, kill -9, too little memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from sae_pipeline.activations import shards
from sae_pipeline.activations.shard_bytes import expected_shard_bytes
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.load import load_language_model
from tests.science.harvest.digests import digests, harvest_into


def test_rerun_and_second_harvest_give_the_same_bytes(harvested, tiny_study, lm, corpus_folder, tmp_path):
    before = digests(harvested[0])
    harvest_into(tmp_path, tiny_study, lm, corpus_folder)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("damage", ["deleted", "cut", "foreign"])
def test_only_a_missing_shard_is_computed_again(damage, harvested, tiny_study, lm, corpus_folder, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    shutil.copytree(harvested[0], folder)
    victim, other = folder / "shards/00002.safetensors", folder / "shards/00001.safetensors"
    if damage == "deleted":
        victim.unlink()
    elif damage == "cut":
        os.truncate(victim, victim.stat().st_size - 100)
    else:
        shutil.copy(other, victim)
    (folder / "shards/00002.partial").write_bytes(b"what a killed process was writing")
    computed = []
    compute = shards._compute
    monkeypatch.setattr(
        shards, "_compute", lambda corpus, lm, plan, *rest: computed.append(plan.path.name) or compute(corpus, lm, plan, *rest)
    )
    harvest_into(folder, tiny_study, lm, corpus_folder)
    assert computed == ["00002.safetensors"]
    assert digests(folder) == digests(harvested[0])


def test_full_disk_is_refused_before_the_first_forward(tiny_study, lm, corpus_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    monkeypatch.setattr(lm, "residual", lambda *args, **kwargs: pytest.fail("the model ran"))
    with pytest.raises(UserError, match=r"the activations need 0.00 GB and the disk has 0.00 GB free. Free some space"):
        harvest_into(tmp_path, tiny_study, lm, corpus_folder)


def test_expected_bytes_are_the_files(harvested, corpus, lm, reader):
    expected = expected_shard_bytes(corpus.n_blocks * corpus.context, lm.d_model, "float32", reader.n_neurons)
    files = [*(harvested[0] / "shards").iterdir(), harvested[0] / "mask.safetensors"]
    assert sum(path.stat().st_size for path in files) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("fails_at", ["00001", "00003"])
def test_a_shard_that_cannot_be_written_ends_the_harvest(fails_at, tiny_study, lm, corpus_folder, tmp_path, monkeypatch):
    write = shards.write_shard

    def full(path, *rest):
        if path.stem == fails_at:
            raise OSError(28, "No space left on device")
        write(path, *rest)

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        harvest_into(tmp_path, tiny_study, lm, corpus_folder)
    assert not (tmp_path / f"shards/{fails_at}.safetensors").exists() and not (tmp_path / "statistics.json").exists()


def test_one_shard_is_written_while_the_next_is_computed(tiny_study, lm, corpus_folder, tmp_path, monkeypatch):
    write, compute = shards.write_shard, shards._compute
    began, events = threading.Event(), []

    def held_up(path, *rest):
        if path.stem == "00000":
            assert began.wait(30), "the second shard was not begun while the first was being written"
        write(path, *rest)
        events.append(f"written {path.stem}")

    def computed(corpus, lm, plan, *rest):
        if plan.path.stem == "00001":
            began.set()
        if plan.path.stem == "00002":
            events.append("third begun")
        return compute(corpus, lm, plan, *rest)

    monkeypatch.setattr(shards, "write_shard", held_up)
    monkeypatch.setattr(shards, "_compute", computed)
    harvest_into(tmp_path, tiny_study, lm, corpus_folder)
    assert events.index("written 00000") < events.index("third begun")  # never more than one waits for the disk


def test_non_finite_activations_are_refused(tiny_study, corpus_folder, tmp_path):
    lm = load_language_model(tiny_study.model, tiny_study.hook)
    lm.anatomy.blocks[0].mlp.down_proj.weight.data[0, 0] = float("nan")  # pyright: ignore
    with pytest.raises(UserError, match=r"model.dtype: the model's activations are not finite in block 0"):
        harvest_into(tmp_path, tiny_study, lm, corpus_folder)
    assert not (tmp_path / "shards").exists()


def test_more_neurons_than_the_block_has(tiny_study, lm, corpus_folder, tmp_path):
    with pytest.raises(UserError, match=r"activations.n_neurons: 65 is more than the 64 neurons"):
        harvest_into(tmp_path, tiny_study, lm, corpus_folder, n_neurons=65)


def test_out_of_memory_halves_the_batch_and_says_so(harvested, tiny_study, lm, corpus_folder, tmp_path, monkeypatch):
    residual, sizes, said = lm.residual, [], []

    def short_of_memory(ids, *args, **kwargs):
        sizes.append(len(ids))
        if len(ids) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return residual(ids, *args, **kwargs)

    monkeypatch.setattr(lm, "residual", short_of_memory)
    monkeypatch.setattr("sae_pipeline.progress.say", said.append)
    harvest_into(tmp_path, tiny_study, lm, corpus_folder)
    assert sizes[:6] == [32, 32, 32, 16, 8, 8]  # a shard is 32 blocks; the batch was 128
    assert said == [f"out of memory: going on with a batch of {batch}" for batch in (64, 32, 16, 8)]
    for name in ("00000", "00003"):
        a, b = (load_file(folder / f"shards/{name}.safetensors") for folder in (tmp_path, harvested[0]))
        torch.testing.assert_close(a["activations_BTD"], b["activations_BTD"], atol=1e-4, rtol=1e-4)


SLOW_HARVEST = """
import sys, time
from pathlib import Path
from sae_pipeline.activations import shards
from sae_pipeline.activations.build import build_activations
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.study import load_study
study = load_study(sys.argv[1])
shards.SHARD_TOKENS = 1024
lm = load_language_model(study.model, study.hook)
residual = lm.residual
lm.residual = lambda *args, **kwargs: time.sleep(0.1) or residual(*args, **kwargs)
build_activations(Path(sys.argv[2]), lm, study.activations, study.metrics, Path(sys.argv[3]))
"""


def test_killed_harvest_goes_on_where_it_was(harvested, tiny_study, lm, corpus_folder, tmp_path):
    study_file = tmp_path / "study.yaml"
    study_file.write_text(json.dumps(tiny_study.model_dump(mode="json")), encoding="utf-8")  # JSON is YAML
    work = tmp_path / "work"
    work.mkdir()
    written: dict[str, int] = {}
    for n_shards in (1, 2, 4):
        process = subprocess.Popen([sys.executable, "-c", SLOW_HARVEST, str(study_file), str(corpus_folder), str(work)])
        try:
            deadline = time.monotonic() + 120
            while len(sorted((work / "shards").glob("*.safetensors"))) < n_shards:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        finished = {path.name: path.stat().st_mtime_ns for path in (work / "shards").glob("*.safetensors")}
        assert written.items() <= finished.items()  # nothing done twice
        assert n_shards <= len(finished) < len(digests(harvested[0])) - 4 and not (work / "statistics.json").exists()
        written = finished
    harvest_into(work, tiny_study, lm, corpus_folder)
    assert {name: (work / "shards" / name).stat().st_mtime_ns for name in written} == written
    assert digests(work) == digests(harvested[0])
