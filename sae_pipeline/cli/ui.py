"""`sae-pipeline ui`: `dagster dev` on loopback, with this study's home and the committed workspace, and the feature browser."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from sae_pipeline.browser.links import HOST, PORT
from sae_pipeline.dagster_home import REPOSITORY, use_dagster_home
from sae_pipeline.errors import UserError
from sae_pipeline.study import load_study

N_TRIED = 50


def ui_command(study_file: Path, first_port: int) -> int:
    """Serve until Ctrl-C; returns the server's exit code."""
    study = load_study(study_file)
    use_dagster_home(study.name)
    from sae_pipeline.browser.server import serving

    port = free_port(first_port)
    dagster = f"http://{HOST}:{port}"
    with serving(study, dagster=dagster) as browser:
        print(f"Dagster UI of study {study.name}: {dagster}   (Ctrl-C stops both)", flush=True)
        print(f"Feature browser:          {browser}", flush=True)
        if not browser.endswith(f":{PORT}/"):
            print(f"  (port {PORT} is taken: links from Dagster to feature pages lead there)", flush=True)
        # `dagster dev` is superseded by a tool that we do not need; its notice would be the first thing a newcomer reads.
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", str(REPOSITORY / "workspace.yaml")]
        environment = os.environ | {"SAE_PIPELINE_STUDY": str(study_file.resolve())}
        server = subprocess.Popen([*command, "-h", HOST, "-p", str(port)], env=environment)
        while True:
            try:
                return server.wait()
            except KeyboardInterrupt:
                # The terminal sent the signal to the server as well: wait for it to close its children.
                continue


def free_port(first: int) -> int:
    """The first free loopback port from `first` on, the feature browser's excepted. Raises `UserError` when all are taken."""
    for port in range(first, first + N_TRIED):
        if port == PORT:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise UserError("--port", f"no free port between {first} and {first + N_TRIED - 1}", "Give another --port.")
