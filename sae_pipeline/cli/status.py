"""`sae-pipeline status`."""

import sys
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from sae_pipeline.cli.run import plain_console
from sae_pipeline.stages import STAGES, sizes_of
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import load_study

STYLES = {"fresh": "green", "stale": "yellow", "missing": "dim", "corrupt": "red"}


def status_command(study_file: Path) -> None:
    """Print one row per artefact."""
    store = ArtifactStore(load_study(study_file), study_file=study_file)
    table = Table(title=f"Study {store.study.name} in {store.root}", title_justify="left")
    for title in ("stage", "size", "state", "why"):
        table.add_column(title, justify="right" if title == "size" else "left")
    stale: set[tuple[str, int | None]] = set()
    for stage in STAGES:
        for size in sizes_of(store.study, stage):
            now = store.freshness(stage, size)
            changing = {parent for parent, its in stale if size is None or its in (size, None)}
            above = [parent for parent in STAGES[stage].upstream if parent in changing]
            if now.state != "fresh" or above:
                stale.add((stage, size))
            if now.state != "fresh" and STAGES[stage].in_survey:
                now = replace(now, why=f"{now.why}; `run --job survey` makes it")
            why = now.why or (f"may change with {', '.join(above)}" if above else "")
            table.add_row(stage, "" if size is None else str(size), f"[{STYLES[now.state]}]{now.state}[/]", why)
    plain_console(sys.stdout).print(table)
