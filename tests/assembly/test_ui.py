"""`sae-pipeline ui` as a user starts it: server, daemon and code location in processes of their own, spoken to by GraphQL."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from sae_pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds, on a busy machine; a quiet one needs about 15

ASSETS = "{ assetNodes { assetKey { path } groupName description opVersion partitionKeys assetChecksOrError { ... on AssetChecks { checks { name } } } } }"  # noqa: E501
MATERIALIZATIONS = """query($key: AssetKeyInput!, $partition: String!) { assetOrError(assetKey: $key) { ... on Asset {
  assetMaterializations(partitions: [$partition], limit: 1) {
    partition metadataEntries { label ... on FloatMetadataEntry { floatValue } ... on IntMetadataEntry { intValue } } } } } }"""
LAUNCH = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
AUTOMATION = """{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
  ... on RepositoryLocation { repositories { name location { name } schedules { name } sensors { name sensorState { status } } } }
  } } } } }"""


class Server:
    """A running UI."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            wanted = probe.getsockname()[1]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "sae_pipeline", "ui", "--study", "study.yaml", "--port", str(wanted)]
        self.log = log
        with log.open("w", encoding="utf-8") as stream:
            # A group of its own that minds Ctrl-C, as from a terminal; tests in the background inherit that it is ignored.
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{wanted}"

    def ask(self, query: str, **variables) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            try:
                if self.ask(AUTOMATION)["workspaceOrError"]["locationEntries"]:
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        pytest.fail(f"no answer in {PATIENCE} s: {self.log.read_text(encoding='utf-8')}")

    def interrupt(self) -> int:
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def ui(finished_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ui") / "copy"
    shutil.copytree(finished_study.folder, folder)
    server = Server(folder, folder.parent / "ui.log")
    try:
        server.wait()
        yield server
    finally:
        if server.process.poll() is None:
            server.interrupt()


def test_graph_is_there_with_descriptions_checks_and_partitions(ui):
    nodes = {node["assetKey"]["path"][-1]: node for node in ui.ask(ASSETS)["assetNodes"]}
    assert set(nodes) == set(STAGES)
    for name, node in nodes.items():
        assert node["groupName"] == STAGES[name].group and len(node["description"]) > 60
        assert node["opVersion"] == STAGES[name].code_version
        assert node["partitionKeys"] == (["32", "64"] if STAGES[name].per_size else [])
    assert {check["name"] for check in nodes["corpus"]["assetChecksOrError"]["checks"]} == {
        "schema", "splits_disjoint", "nothing_empty",
    }  # fmt: skip


def test_runs_of_the_command_line_are_there_with_numbers_per_size(ui):
    for size in ("32", "64"):
        asset = ui.ask(MATERIALIZATIONS, key={"path": ["sae_metrics"]}, partition=size)["assetOrError"]
        (materialization,) = asset["assetMaterializations"]
        numbers = {entry["label"]: entry.get("floatValue") for entry in materialization["metadataEntries"]}
        assert materialization["partition"] == size
        assert 0 < numbers["explained_variance"] < 1


def test_schedule_and_sensors_are_there(ui):
    (entry,) = ui.ask(AUTOMATION)["workspaceOrError"]["locationEntries"]
    (repository,) = entry["locationOrLoadError"]["repositories"]
    assert repository["location"]["name"] == "sae_pipeline"
    assert [schedule["name"] for schedule in repository["schedules"]] == ["weekly_refresh"]
    assert {sensor["name"]: sensor["sensorState"]["status"] for sensor in repository["sensors"]} == {
        "analysis_refresh": "RUNNING", "orphaned_runs": "RUNNING",
    }  # fmt: skip


def test_one_size_of_one_asset_can_be_materialized_then_ctrl_c_ends_everything(ui):
    (entry,) = ui.ask(AUTOMATION)["workspaceOrError"]["locationEntries"]
    (repository,) = entry["locationOrLoadError"]["repositories"]
    params = {
        "selector": {
            "repositoryName": repository["name"], "repositoryLocationName": "sae_pipeline", "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": ["specificity_scores"]}], "assetCheckSelection": None,
        },
        "mode": "default", "runConfigData": {},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "64"}]},
    }  # fmt: skip
    launched = ui.ask(LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    deadline = time.monotonic() + PATIENCE
    status = ""
    while time.monotonic() < deadline and status not in ("SUCCESS", "FAILURE"):
        status = ui.ask(STATUS, id=launched["run"]["runId"])["runOrError"]["status"]
        time.sleep(0.5)
    assert status == "SUCCESS"
    asset = ui.ask(MATERIALIZATIONS, key={"path": ["specificity_scores"]}, partition="64")["assetOrError"]
    (materialization,) = asset["assetMaterializations"]
    assert "reused" in {entry["label"] for entry in materialization["metadataEntries"]}
    assert f"Dagster UI of study tiny: {ui.url}" in ui.log.read_text(encoding="utf-8")
    ui.interrupt()
    with pytest.raises(urllib.error.URLError):
        ui.ask(AUTOMATION)
