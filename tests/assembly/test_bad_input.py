"""`sae-pipeline run` on what cannot work: one sentence (where, what, mend), exit code 2, nothing published, nothing lost."""

import errno
import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from tests.conftest import FinishedStudy, tiny_study_mapping

HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("create table lineage (a int)")
print("held", flush=True)
sys.stdin.read()
"""


class Case:
    """A study that is changed before it is run."""

    def __init__(self, folder, model_folder, text_folder):
        self.study = FinishedStudy(folder)
        self.mapping = tiny_study_mapping(model_folder, text_folder)

    def assert_refused(self, *words: str) -> None:
        self.study.file.write_text(yaml.safe_dump(self.mapping), encoding="utf-8")
        code, _, errors = self.study.command("run", "--device", "cpu")
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in errors, errors
        for word in words:
            assert word in lines[0]
        assert not list((self.study.folder / "data").rglob("manifest.json"))


@pytest.fixture
def case(tmp_path, tiny_model_folder, tiny_text_folder):
    return Case(tmp_path, tiny_model_folder, tiny_text_folder)


def test_hook_past_the_last_block(case):
    case.mapping["hook"]["after_block"] = 9
    case.assert_refused("hook.after_block", "blocks 0 to 2", "Choose 0 to 2")


def test_missing_hub_model(case):
    case.mapping["model"] = {"source": "hub", "id": "nobody/no-such-model"}
    case.assert_refused("model.id", "nobody/no-such-model", "Check the id")


class GatedHub(BaseHTTPRequestHandler):
    """A hub that answers as the real one does for a model whose terms were not accepted."""

    def do_HEAD(self):
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format, *args):
        pass


def test_gated_hub_model(case, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), GatedHub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        case.mapping["model"] = {"source": "hub", "id": "big/gated"}
        case.assert_refused("model.id", "big/gated is gated", "HF_TOKEN")
        hub.shutdown()


def test_tokenizer_without_bos(case, tmp_path):
    folder = shutil.copytree(case.mapping["model"]["path"], tmp_path / "model")
    for file in folder.glob("*.json"):
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, dict) and file.name != "tokenizer.json":
            values.pop("bos_token", None)
            file.write_text(json.dumps(values), encoding="utf-8")
    case.mapping["model"]["path"] = str(folder)
    case.assert_refused("corpus.bos", "has no BOS token", "Set corpus.bos: none")


def test_empty_corpus(case, tmp_path):
    (tmp_path / "stories.jsonl").write_text('{"text": ""}\n{"text": "  "}\n', encoding="utf-8")
    case.mapping["corpus"]["sources"][0]["path"] = str(tmp_path / "stories.jsonl")
    case.assert_refused("corpus.sources.stories", "holds no usable document (2 empty", "Give another source")


def test_budget_that_no_tokenizer_could_fill(case):
    case.mapping["corpus"]["sources"][0]["tokens"] = 50_000_000
    case.assert_refused("corpus.sources.stories.tokens: 50,000,000 is more than the source holds", "Lower the budget")
    assert not (case.study.folder / "data" / "tiny" / ".work").exists()  # before the first stage


def test_full_disk(case, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sae_pipeline.corpus.build.vocabulary", full)  # the last file of the stage
    case.assert_refused("the disk is full", "Free some space and run again")
    assert list((case.study.folder / "data").rglob("blocks.parquet"))  # what was finished is kept


def test_foreign_database(case):
    file = case.study.folder / "data" / "tiny" / "analysis.duckdb"
    file.parent.mkdir(parents=True)
    file.write_text("my own notes", encoding="utf-8")
    case.assert_refused("analysis.duckdb", "is not a DuckDB database", "Move the file away")
    assert file.read_text(encoding="utf-8") == "my own notes"


def test_locked_database(case):
    file = case.study.folder / "data" / "tiny" / "analysis.duckdb"
    file.parent.mkdir(parents=True)
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        case.assert_refused("analysis.duckdb", "is open for writing in another program", "Close it there")
        holder.communicate("")
    assert file.is_file()


def test_corrupt_shard_of_a_single_stage(finished_study, tmp_path):
    copy = finished_study.at(tmp_path / "copy")
    shutil.copytree(finished_study.folder, copy.folder)
    shard = sorted((copy.store.path("activations") / "shards").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    before = copy.store.manifest("sae", 32)
    code, _, errors = copy.command("run", "--only", "sae", "--size", "32", "--force", "--device", "cpu")
    assert code == 2 and "digest mismatch" in errors and shard.name in errors and "Traceback" not in errors
    assert copy.store.manifest("sae", 32) == before
