"""The command line on a real terminal and under signals, as a process of its own."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import yaml

from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study
from tests.conftest import tiny_study_mapping

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds, on a busy machine; a quiet one needs about 20


@pytest.fixture
def folder(tmp_path, tiny_model_folder, tiny_text_folder):
    mapping = tiny_study_mapping(tiny_model_folder, tiny_text_folder)
    # Long enough to be interrupted, and to show a bar.
    mapping["sae"] |= {"sizes": [64], "epochs": 20, "checkpoint_every_steps": 20}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    return tmp_path


class Terminal:
    """`sae-pipeline run` on a pseudo-terminal."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # rows, columns
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
        environment.pop("DAGSTER_HOME", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sae_pipeline", "run", "--study", "study.yaml", *arguments],
            cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def read_until(self, pattern: str | None) -> str:
        """Read until `pattern` is seen, or (None) to the end."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if pattern is not None and re.search(pattern, self.seen):
                return self.seen
            if not select.select([self.ours], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self.ours, 65536)
            except OSError:  # the other side is closed
                piece = b""
            if not piece:
                return self.seen
            self.seen += piece.decode(errors="replace")
        pytest.fail(f"{pattern} not seen in {PATIENCE} s: {self.seen[-2000:]}")

    def finish(self) -> int:
        self.read_until(None)
        return self.process.wait(timeout=PATIENCE)


def test_bars_reach_the_terminal_and_ctrl_c_is_clean(folder):
    terminal = Terminal(folder)
    # The control of the random model trains an SAE of the same size before.
    terminal.read_until(r"per_size 64:[\s\S]*sae/64: +([5-9]|\d\d)%")
    os.killpg(terminal.process.pid, signal.SIGINT)
    code = terminal.finish()
    assert code == 130, terminal.seen
    assert "stopped; what was finished is kept" in terminal.seen
    assert "Traceback" not in terminal.seen
    store = ArtifactStore(load_study(folder / "study.yaml"), folder / "data")
    assert store.freshness("activations").state == "fresh"
    assert store.freshness("sae", 64).state == "missing"

    again = Terminal(folder, "--only", "sae")
    assert again.finish() == 0, again.seen
    assert store.freshness("sae", 64).state == "fresh"
    manifest = store.manifest("sae", 64)
    assert manifest is not None and manifest.metadata["resumed_at_step"] > 0, again.seen


def test_mistake_found_inside_an_asset_is_one_line_and_exit_code_2(folder, tiny_model_folder, tmp_path):
    """A tokenizer without BOS: only the corpus stage opens the tokenizer."""
    model = tmp_path / "model_without_bos"
    model.mkdir()
    for file in tiny_model_folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := model / name).is_file():
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings.pop("bos_token", None)
            file.write_text(json.dumps(settings), encoding="utf-8")
    mapping = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    mapping["model"]["path"] = str(model)
    (folder / "study.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "sae_pipeline", "run", "--study", "study.yaml"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "has no BOS token" in errors[0] and "corpus.bos" in errors[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert not (folder / "data" / "tiny" / "corpus").exists()
