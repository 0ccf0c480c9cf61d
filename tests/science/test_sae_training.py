import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

from sae_pipeline.digests import file_digest
from sae_pipeline.errors import UserError
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.build import build_sae
from sae_pipeline.sae.history import read_history
from sae_pipeline.study import Sae
from tests.science.planted import PlantedActivations

SIZE = 96
FILES = ("weights.safetensors", "config.json", "history.parquet")


SPARSITY = {
    "relu_l1": {"l1": 0.4},
    "gated": {"l1": 1.0},
    "topk": {"k": 3},
    "batch_topk": {"k": 3},
    "matryoshka": {"k": 3, "prefixes": [0.25, 0.5, 1]},
    "jumprelu": {"sparsity": 0.3},
    "jumprelu-step": {"sparsity": 1.5, "sparsity_loss": "step"},
    "revived": {"k": 3},
    "ring": {"k": 3},
}
PLAIN = [name for name in SPARSITY if name not in ("revived", "ring")]
OTHERWISE = {
    "revived": {"architecture": "batch_topk", "sizes": [512], "epochs": 50},  # so long that many are dead and AuxK takes part
    "ring": {"architecture": "batch_topk", "ring": 700},  # activations that are computed on the way
}


def section(architecture: str = "batch_topk", **changes) -> Sae:
    fields = {"sizes": [SIZE], "epochs": 20, "batch": 256, "learning_rate": 5e-3, "checkpoint_every_steps": 20}
    fields |= {"architecture": architecture.split("-")[0]} | OTHERWISE.get(architecture, {}) | SPARSITY[architecture]
    return Sae(**(fields | changes))  # pyright: ignore[reportArgumentType]


def source(architecture: str, made: type[PlantedActivations] = PlantedActivations) -> PlantedActivations:
    reader = made()
    reader.is_streamed = architecture == "ring"
    return reader


def digests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in FILES}


@pytest.fixture(scope="module")
def planted() -> PlantedActivations:
    return PlantedActivations()


@pytest.fixture(scope="module")
def trained(planted: PlantedActivations, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("trained")
    build_sae(planted, section(), SIZE, work, {"hook": "planted"})  # pyright: ignore[reportArgumentType]
    return work


@pytest.mark.parametrize("architecture", PLAIN)
def test_a_planted_dictionary_is_found(planted, tmp_path, architecture):
    build_sae(planted, section(architecture), SIZE, tmp_path)
    sae = SparseAutoencoder.load(tmp_path)
    r_ND = planted.gather(planted.token_index("held_out")).float()
    residual = (r_ND - sae.reconstruct(r_ND)).square().sum()
    explained = 1 - residual / (r_ND - r_ND.mean(0)).square().sum()
    similarity_Q = (planted.direction_QD @ sae.W_dec_FD.T).max(dim=1).values
    assert explained > 0.8
    assert (similarity_Q > 0.9).float().mean() > 0.7


def test_what_is_written(trained, planted):
    sae = SparseAutoencoder.load(trained)
    n_tokens = len(planted.token_index("train"))
    n_steps = 20 * n_tokens // 256
    assert sorted(file.name for file in trained.iterdir()) == sorted(FILES)  # no checkpoint stays behind
    assert sae.config["n_tokens_trained"] == n_steps * 256 and sae.config["hook"] == "planted"
    assert sae.scale == planted.scale and torch.equal(sae.mean_D, planted.mean_D)
    history = pl.read_parquet(trained / "history.parquet")
    assert history["step"].to_list() == list(range(n_steps))
    assert history["l0"].to_list() == pytest.approx([3.0] * n_steps)
    assert history["learning_rate"][0] == 5e-3 and history["learning_rate"][-1] < 2e-4
    assert history["explained_variance_batch"][-1] > history["explained_variance_batch"][0] + 0.3


def test_l0_on_held_out_tokens_is_k_at_the_stored_threshold(trained, planted):
    sae = SparseAutoencoder.load(trained)
    codes = sae.encode_sparse(planted.gather(planted.token_index("held_out")))
    assert len(codes.feature) / (len(codes.offsets) - 1) == pytest.approx(3.0, abs=0.3)


def test_equal_seeds_give_equal_bytes_and_another_seed_others(trained, planted, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        build_sae(planted, section(seed=seed), SIZE, tmp_path / name, {"hook": "planted"})
    assert digests(tmp_path / "again") == digests(trained)
    assert digests(tmp_path / "other")["weights.safetensors"] != digests(trained)["weights.safetensors"]


# One process that imports once and forks a training per line of standard input (folder, architecture); prints the child's process
# id, then its exit status. It must not start the threads of any library itself: they do not survive a fork.
SERVER = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sae_pipeline.sae.build import build_sae
from tests.science.test_sae_training import section, source
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # imports half of torch, once instead of in every child
for line in sys.stdin:
    folder, architecture = line.split()
    child = os.fork()
    if child == 0:
        settings = section(architecture)
        build_sae(source(architecture), settings, settings.sizes[0], Path(folder), {"hook": "planted"})
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Server:
    """Trainings in processes of their own, and their exit statuses as `os.waitpid` gives them."""

    def __enter__(self) -> "Server":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def train(self, work: Path, architecture: str, send: signal.Signals | None = None, step: int = 0, delay: float = 0.0) -> int:
        """Exit status; `send` is sent `delay` seconds after the history shows `step`."""
        assert self._process.stdin and self._process.stdout
        work.mkdir(exist_ok=True)
        print(work, architecture, file=self._process.stdin, flush=True)
        child, deadline = int(self._process.stdout.readline()), time.monotonic() + 120
        while send and reported_step(work) < step:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        if send:
            time.sleep(delay)
            os.kill(child, send)
        return int(self._process.stdout.readline())


def reported_step(work: Path) -> int:
    """The last step that the live history shows."""
    history = read_history(work)
    return history["step"][-1] if history.height else -1


def kept_step(work: Path) -> int:
    """Step of the checkpoint in the folder, 0 without one."""
    pointer = work / "checkpoint.json"
    return json.loads(pointer.read_text(encoding="utf-8"))["step"] if pointer.is_file() else 0


@pytest.mark.parametrize(
    ("architecture", "n_kills"),
    [("batch_topk", 5), ("ring", 2), *(pytest.param(name, 20, marks=pytest.mark.long) for name in SPARSITY)],
)
def test_killed_and_resumed_the_bytes_are_those_of_an_uninterrupted_run(tmp_path, architecture, n_kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    points = sorted(random.sample(range(5, 215), n_kills))  # anew each time: none may matter
    with Server() as server:
        assert server.train(whole, architecture) == 0
        for step in points:
            assert server.train(killed, architecture, signal.SIGKILL, step, 0.01 * random.random()) == signal.SIGKILL, points
            assert kept_step(killed) > step - 20 - 5  # at most one interval (and one rewrite of the history) is done again
        assert server.train(killed, architecture) == 0
    assert digests(killed) == digests(whole), points


def test_sigterm_saves_a_checkpoint_between_two_steps(tmp_path):
    work = tmp_path / "stopped"
    with Server() as server:
        assert server.train(work, "batch_topk", signal.SIGTERM, 104) == signal.SIGTERM
        step = kept_step(work)
        assert step > 104 and step % 20 != 0  # not one of the regular ones, at every 20th step
        assert read_history(work)["step"].to_list() == list(range(step))
        assert server.train(work, "batch_topk") == 0
        assert server.train(tmp_path / "whole", "batch_topk") == 0
    assert digests(work) == digests(tmp_path / "whole")


def interrupted(work: Path, architecture: str = "batch_topk", n_steps: int = 20, **changes) -> Path:
    """A work folder with a checkpoint at step `n_steps`, as an exception leaves it."""

    class Enough(Exception):
        pass

    class Failing(PlantedActivations):
        n_batches = 0

        def scaled(self, r_ND):
            self.n_batches += 1
            if self.n_batches > n_steps + 5:
                raise Enough
            return super().scaled(r_ND)

    work.mkdir()
    settings = section(architecture, **changes)
    with pytest.raises(Enough):
        build_sae(source(architecture, Failing), settings, settings.sizes[0], work, {"hook": "planted"})  # pyright: ignore[reportArgumentType]
    return work


@pytest.mark.parametrize("architecture", [name for name in PLAIN if name != "batch_topk"])
def test_every_architecture_resumes_to_the_same_bytes(planted, tmp_path, architecture):
    changes = {"epochs": 3}
    work = interrupted(tmp_path / "work", architecture, **changes)
    outcome = build_sae(planted, section(architecture, **changes), SIZE, work, {"hook": "planted"})
    (tmp_path / "whole").mkdir()
    build_sae(planted, section(architecture, **changes), SIZE, tmp_path / "whole", {"hook": "planted"})
    assert outcome.metadata["resumed_at_step"] == 20
    assert digests(work) == digests(tmp_path / "whole")


def test_a_training_that_revives_dead_features_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    """AuxK takes part after 20,000 tokens; in the long tests' kills after the true 100,000."""
    monkeypatch.setattr("sae_pipeline.sae.learner.DEAD_AFTER_TOKENS", 20_000)
    settings = section("revived", epochs=12)

    def built(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        build_sae(source("revived"), settings, 512, tmp_path / name, {"hook": "planted"})  # pyright: ignore[reportArgumentType]
        return tmp_path / name

    interrupted(tmp_path / "work", "revived", 100, epochs=12)
    assert read_history(tmp_path / "work")["dead_fraction"][-1] > 0.05
    whole = built("whole")
    assert digests(built("work")) == digests(whole)
    monkeypatch.setattr("sae_pipeline.sae.step.revive", lambda *_: None)
    assert digests(built("without"))["weights.safetensors"] != digests(whole)["weights.safetensors"]


def test_resuming_under_other_circumstances_is_said(planted, trained, tmp_path, caplog):
    work = interrupted(tmp_path / "work")
    pointer = work / "checkpoint.json"
    saved = json.loads(pointer.read_text(encoding="utf-8"))
    saved["values"]["circumstances"] |= {"threads": 64, "torch": "1.0"}
    pointer.write_text(json.dumps(saved), encoding="utf-8")
    build_sae(planted, section(), SIZE, work, {"hook": "planted"})
    assert f"torch 1.0, now {torch.__version__}; threads 64, now" in caplog.text and "last bits" in caplog.text
    assert digests(work) == digests(trained)


@pytest.mark.parametrize("found", ["[]", "7", '{"step": 20}', '{"file": "checkpoint-00000020.safetensors"', "settings", "values"])
def test_a_checkpoint_that_is_other_json_is_no_checkpoint(planted, tmp_path, caplog, found):
    work = interrupted(tmp_path / "work", epochs=3)
    pointer = work / "checkpoint.json"
    if found in ("settings", "values"):
        found = json.dumps(json.loads(pointer.read_text(encoding="utf-8")) | {found: [1]})
    pointer.write_text(found, encoding="utf-8")
    assert build_sae(planted, section(epochs=3), SIZE, work).metadata["resumed_at_step"] == 0
    assert "checkpoint.json is not readable" in caplog.text


def test_a_truncated_checkpoint_is_noticed_and_training_starts_over(planted, trained, tmp_path, caplog):
    work = interrupted(tmp_path / "work")
    file = work / "checkpoint-00000020.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    outcome = build_sae(planted, section(), SIZE, work, {"hook": "planted"})
    assert "starts over" in caplog.text and file.name in caplog.text
    assert outcome.metadata["resumed_at_step"] == 0
    assert digests(work)["weights.safetensors"] == digests(trained)["weights.safetensors"]


def test_a_checkpoint_of_other_settings_is_refused(planted, tmp_path):
    work = interrupted(tmp_path / "work")
    with pytest.raises(UserError, match=r"checkpoint\.json: is of a run with another learning_rate"):
        build_sae(planted, section(learning_rate=1e-3), SIZE, work)


def test_a_checkpoint_of_another_number_format_or_layout_is_refused(planted, tmp_path):
    work = interrupted(tmp_path / "work")
    pointer = work / "checkpoint.json"
    saved = json.loads(pointer.read_text(encoding="utf-8"))
    for field, value in (("product_dtype", "torch.float64"), ("checkpoint_format", 0)):
        pointer.write_text(json.dumps(saved | {"settings": saved["settings"] | {field: value}}), encoding="utf-8")
        with pytest.raises(UserError, match=f"is of a run with another {field}"):
            build_sae(planted, section(), SIZE, work, {"hook": "planted"})


def test_a_batch_larger_than_the_data_and_a_diverging_run_are_user_errors(planted, tmp_path):
    with pytest.raises(UserError, match=r"sae\.batch"):
        build_sae(planted, section(batch=10**6), SIZE, tmp_path)
    with pytest.raises(UserError, match="training diverged"):
        build_sae(planted, section(learning_rate=1e30), SIZE, tmp_path)


def test_published_center_share_is_that_of_the_data(trained, planted):
    train_ND = planted.gather(planted.token_index("train")).double()
    expected = train_ND.mean(0).square().sum() / train_ND.square().sum(1).mean()
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    assert config["center_share"] == pytest.approx(float(expected), rel=1e-5)
