"""The command line: help that teaches, exit codes, one line per mistake, never a traceback."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sae_pipeline.__main__ import main
from sae_pipeline.cli.ui import free_port
from sae_pipeline.errors import UserError
from sae_pipeline.stages import STAGES
from tests.conftest import tiny_study_mapping
from tests.fakes.messages_api import FakeMessagesApi

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study_file(tmp_path, monkeypatch, tiny_model_folder, tiny_text_folder):
    """A tiny study file; the working directory is a fresh folder, so that data/ is there."""
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tiny_study_mapping(tiny_model_folder, tiny_text_folder)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return file


def call(capfd, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    code = caught.value.code
    assert isinstance(code, int | None)
    return code or 0, captured.out, captured.err


def test_help_teaches(capfd):
    code, out, _ = call(capfd, "--help")
    assert code == 0
    assert all(command in out for command in ("run", "plan", "status", "ui", "browse", "steer"))
    code, out, _ = call(capfd, "run", "--help")
    assert code == 0 and "pre-flight" in out and "--features" in out and "Ctrl-C is safe" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--study", "nowhere.yaml"], "nowhere.yaml: no such study file"),
        (["run", "--study", "{file}", "--size", "48"], "--size: 48 is not in sae.sizes [32, 64]"),
        (["run", "--study", "{file}", "--only", "training"], "--only: no stage 'training'. Stages: corpus, activations"),
        (["run", "--study", "{file}", "--job", "per_size"], "--job: no job 'per_size' to ask for"),
        (["run", "--study", "{file}", "--job", "survey", "--size", "32"], "--job: goes with neither --only nor --size"),
        (["run", "--study", "{file}", "--features", "1,2"], "--features: goes with --only"),
        (["run", "--study", "{file}", "--only", "explanations", "--features", "one"], "--features: 'one' is not a list"),
        (
            ["run", "--study", "{file}", "--only", "explanations", "--features", "40"],
            "names feature 40, but the smallest size is 32",
        ),
        (["run", "--study", "{file}", "--max-minutes", "0"], "--max-minutes:"),
        (
            ["steer", "--study", "{file}", "--feature", "3", "--factor", "1", "--factor", "2", "--prompt", "x"],
            "--factor: 2 factors",
        ),
        (["steer", "--study", "{file}", "--feature", "3", "--prompt", "x", "--mode", "melt"], "--mode: no mode 'melt'"),
        (["steer", "--study", "{file}", "--feature", "3", "--prompt", "x"], "is not there yet. Run `sae-pipeline run`"),
        (["steer", "--study", "{file}", "--feature", "3", "--feature", "3", "--prompt", "x"], "--feature: 3 is given twice"),
        (["steer", "--study", "{file}", "--feature", "3", "--factor", "nan", "--prompt", "x"], "--factor: nan is not between"),
        (["steer", "--study", "{file}", "--size", "0", "--feature", "3", "--prompt", "x"], "has no SAE of 0 features"),
        (["attribute", "--study", "{file}", "--size", "0", "--prompt", "x", "--target", "a", "--baseline", "b"], "no SAE of 0"),
        (["search", "--study", "{file}", "--size", "0", "--positive", "x", "--negative", "y"], "no SAE of 0"),
        (["run", "--study", "{file}", "--device", "tpu"], "compute.device: unknown device 'tpu'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capfd, study_file, arguments, words):
    code, _, err = call(capfd, *(argument.format(file=study_file) for argument in arguments))
    assert code == 2
    assert words in err and err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err


def test_broken_study_is_one_line(capfd, study_file):
    study_file.write_text(study_file.read_text(encoding="utf-8") + "colour: blue\n", encoding="utf-8")
    code, _, err = call(capfd, "status", "--study", study_file)
    assert code == 2 and "unknown key `colour`" in err and err.count("\n") == 1


def test_plan_prints_everything_and_writes_no_artefact(capfd, study_file):
    code, out, err = call(capfd, "plan", "--study", study_file)
    assert code == 0 and not err
    for words in (
        "Study tiny",
        "residual after block 1 of 3",
        "6,500",
        "stories 4,000",
        "batch_topk, k 8",
        "32, 64",
        "0 dollars",
        "device  cpu (auto: no CUDA",
        "float32: set in the study",
    ):
        assert words in out, words
    assert not [path for path in Path("data").rglob("*") if path.is_file()]


def test_plan_lets_the_judge_count_only_when_it_is_told_to(capfd, study_file, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    with FakeMessagesApi() as api:
        mapping = yaml.safe_load(study_file.read_text(encoding="utf-8"))
        mapping["score"] = mapping.get("score", {}) | {"method": "rubric"}
        mapping["judge"] = {"backend": "anthropic", "model": "claude-haiku-5-5", "base_url": api.url, "budget_usd": 1}
        study_file.write_text(yaml.safe_dump(mapping), encoding="utf-8")
        code, out, _ = call(capfd, "plan", "--study", study_file)
        assert code == 0 and "study's own tokenizer" in out and "nothing was sent" in " ".join(out.split()) and not api.log
        code, out, _ = call(capfd, "plan", "--study", study_file, "--count-tokens")
        assert code == 0 and f"{len(api.log)} texts counted by {api.url}" in out
        assert {path for _, path, _ in api.log} == {"/v1/messages/count_tokens"}


def test_status_of_a_new_study(capfd, study_file):
    code, out, _ = call(capfd, "status", "--study", study_file)
    n_artefacts = sum(2 if stage.per_size else 1 for stage in STAGES.values())
    assert code == 0 and out.count("missing") == n_artefacts and "--job survey" in out
    assert not Path("data").exists()


def test_study_from_the_environment(capfd, study_file, monkeypatch):
    monkeypatch.setenv("SAE_PIPELINE_STUDY", str(study_file))
    code, out, _ = call(capfd, "status")
    assert code == 0 and "Study tiny" in out


def test_free_port_skips_taken_ones_and_the_feature_browsers():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1]
        assert first < free_port(first) < first + 50
    assert free_port(3001) != 3001


def test_no_free_port_is_a_user_error(monkeypatch):
    def refuse(*_):
        raise OSError("taken")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UserError, match="no free port"):
        free_port(3000)


def test_status_does_not_import_torch_or_dagster(study_file):
    code = (
        "import sys; from sae_pipeline.__main__ import main\n"
        "try: main(['status', '--study', sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'dagster', 'transformers'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(study_file)], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_status_names_what_may_change_below_a_stale_stage(finished_study, tmp_path):
    study = finished_study.at(Path(shutil.copytree(finished_study.folder, tmp_path / "copy")))
    mapping = yaml.safe_load(study.file.read_text(encoding="utf-8"))
    mapping["steer"]["factors"] = [0, 1, 3]
    study.file.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    code, out, _ = study.command("status")
    rows = {tuple(cell.strip() for cell in line.strip("│\n").split("│")) for line in out.splitlines() if line.startswith("│")}
    assert code == 0
    assert ("steering_evals", "64", "stale", "the study changed") in rows
    assert ("analysis_tables", "", "fresh", "may change with steering_evals") in rows
    assert ("sae", "64", "fresh", "") in rows
