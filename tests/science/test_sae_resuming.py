"""Resuming from a checkpoint, and checkpoints that must not be resumed from."""

import json
from pathlib import Path

import pytest
import torch

from sae_pipeline.errors import UserError
from sae_pipeline.sae.build import build_sae
from sae_pipeline.sae.history import read_history
from tests.science.planted import PlantedActivations
from tests.science.trainings import PLAIN, SIZE, digests, section, source


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
def test_every_architecture_resumes_to_the_same_bytes(planted_activations, tmp_path, architecture):
    changes = {"epochs": 3}
    work = interrupted(tmp_path / "work", architecture, **changes)
    outcome = build_sae(planted_activations, section(architecture, **changes), SIZE, work, {"hook": "planted"})
    (tmp_path / "whole").mkdir()
    build_sae(planted_activations, section(architecture, **changes), SIZE, tmp_path / "whole", {"hook": "planted"})
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


def test_resuming_under_other_circumstances_is_said(planted_activations, trained_sae, tmp_path, caplog):
    work = interrupted(tmp_path / "work")
    pointer = work / "checkpoint.json"
    saved = json.loads(pointer.read_text(encoding="utf-8"))
    saved["values"]["circumstances"] |= {"threads": 64, "torch": "1.0"}
    pointer.write_text(json.dumps(saved), encoding="utf-8")
    build_sae(planted_activations, section(), SIZE, work, {"hook": "planted"})
    assert f"torch 1.0, now {torch.__version__}; threads 64, now" in caplog.text and "last bits" in caplog.text
    assert digests(work) == digests(trained_sae)


@pytest.mark.parametrize("found", ["[]", "7", '{"step": 20}', '{"file": "checkpoint-00000020.safetensors"', "settings", "values"])
def test_a_checkpoint_that_is_other_json_is_no_checkpoint(planted_activations, tmp_path, caplog, found):
    work = interrupted(tmp_path / "work", epochs=3)
    pointer = work / "checkpoint.json"
    if found in ("settings", "values"):
        found = json.dumps(json.loads(pointer.read_text(encoding="utf-8")) | {found: [1]})
    pointer.write_text(found, encoding="utf-8")
    assert build_sae(planted_activations, section(epochs=3), SIZE, work).metadata["resumed_at_step"] == 0
    assert "checkpoint.json is not readable" in caplog.text


def test_a_truncated_checkpoint_is_noticed_and_training_starts_over(planted_activations, trained_sae, tmp_path, caplog):
    work = interrupted(tmp_path / "work")
    file = work / "checkpoint-00000020.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    outcome = build_sae(planted_activations, section(), SIZE, work, {"hook": "planted"})
    assert "starts over" in caplog.text and file.name in caplog.text
    assert outcome.metadata["resumed_at_step"] == 0
    assert digests(work)["weights.safetensors"] == digests(trained_sae)["weights.safetensors"]


def test_a_checkpoint_of_other_settings_is_refused(planted_activations, tmp_path):
    work = interrupted(tmp_path / "work")
    with pytest.raises(UserError, match=r"checkpoint\.json: is of a run with another learning_rate"):
        build_sae(planted_activations, section(learning_rate=1e-3), SIZE, work)


def test_a_checkpoint_of_another_number_format_or_layout_is_refused(planted_activations, tmp_path):
    work = interrupted(tmp_path / "work")
    pointer = work / "checkpoint.json"
    saved = json.loads(pointer.read_text(encoding="utf-8"))
    for field, value in (("product_dtype", "torch.float64"), ("checkpoint_format", 0)):
        pointer.write_text(json.dumps(saved | {"settings": saved["settings"] | {field: value}}), encoding="utf-8")
        with pytest.raises(UserError, match=f"is of a run with another {field}"):
            build_sae(planted_activations, section(), SIZE, work, {"hook": "planted"})
