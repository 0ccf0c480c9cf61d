"""A study with a judge and without a key, by the command line: the graph completes, and no socket is connected."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import yaml

ROOT = Path(__file__).parents[2]
# Ends the process at the first address that is looked up, connected or sent to: nothing can catch it and go on.
WITHOUT_NETWORK = """
import os, sys

def forbid(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        os.write(2, f"FORBIDDEN {event} {args[1:]}".encode())
        os._exit(97)

sys.addaudithook(forbid)
from sae_pipeline.__main__ import main

def call(*arguments):
    try:
        main([*arguments, "--study", "study.yaml"])
    except SystemExit as stop:
        assert not stop.code, (arguments, stop.code)

call("plan")
for stage in ("explanations", "specificity_scores"):
    call("run", "--only", stage, "--size", "32")
print("so far so good", flush=True)
os.environ["ANTHROPIC_API_KEY"] = "sk-test"
call("plan")
print("with a key, too", flush=True)
call("plan", "--count-tokens")
"""


def test_without_a_key_the_stages_complete_and_no_socket_is_connected(finished_study, tmp_path, monkeypatch):
    study = finished_study.at(Path(shutil.copytree(finished_study.folder, tmp_path / "copy")))
    mapping = yaml.safe_load(study.file.read_text(encoding="utf-8"))
    mapping["explain"] = {"method": "llm", "n_judged": 3}
    mapping["score"] |= {"method": "rubric", "n_features": 3, "n_controls": 2}
    url = "http://127.0.0.1:9"
    mapping["judge"] = {"backend": "anthropic", "model": "claude-haiku-5-5", "base_url": url, "budget_usd": 1.0}
    study.file.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("ANTHROPIC_API_KEY", "DAGSTER_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK], cwd=study.folder, env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "so far so good" in done.stdout, done.stderr
    assert "for want of a key" in done.stdout and "nothing will be asked" in done.stdout
    assert "with a key, too" in done.stdout and "--count-tokens" in done.stdout
    # Asked to, the plan lets the judge's server count, and the watch does see it.
    assert done.returncode == 97 and "FORBIDDEN socket.connect (('127.0.0.1', 9),)" in done.stderr, done.stderr
    explained = pl.read_parquet(study.store.path("explanations", 32) / "explanations.parquet").filter(method="llm-v1")
    assert "not_run" in explained["status"] and "ok" not in explained["status"]
    facts = study.store.manifest("explanations", 32).metadata
    assert facts["llm_status"].startswith("not_run: no judge configured")
    calibration = pl.read_parquet(study.store.path("specificity_scores", 32) / "judge_calibration.parquet")
    assert calibration["reasons"][0].startswith("not_run: no judge configured") and not calibration["passed"][0]
    scores = pl.read_parquet(study.store.path("specificity_scores", 32) / "specificity_scores.parquet")
    rubric = scores.filter(pl.col("method").str.starts_with("rubric"))
    assert rubric.height > 0 and rubric["score"].null_count() == rubric.height
    assert scores.filter(method="proxy")["score"].null_count() == 0
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    assert "judge key" in study.store.freshness("explanations", 32).why
