"""DAGSTER_HOME of a study: `data/<study>/.dagster`, made from the committed `.dagster/dagster.yaml`."""

import os
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def use_dagster_home(study_name: str, root: Path | str = "data") -> Path:
    """Make the folder, keep its dagster.yaml equal to the committed one, and point DAGSTER_HOME of this process at it."""
    home = (Path(root) / study_name / ".dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    committed, copy = REPOSITORY / ".dagster" / "dagster.yaml", home / "dagster.yaml"
    if not copy.is_file() or copy.read_bytes() != committed.read_bytes():
        shutil.copyfile(committed, copy)
    os.environ["DAGSTER_HOME"] = str(home)
    return home
