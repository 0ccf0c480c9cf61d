"""What is checked before anything long starts, beyond the study file itself. Each failure is one `UserError`."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sae_pipeline.errors import UserError
from sae_pipeline.inputs import external_inputs
from sae_pipeline.plan import Plan
from sae_pipeline.plan_generation import check_generation
from sae_pipeline.stages import STAGES
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import PretrainedSae

if TYPE_CHECKING:
    import duckdb

DISK_MARGIN = 1.1


def check_plan(store: ArtifactStore, plan: Plan, device: str = "auto", max_minutes: float | None = None) -> None:
    """Refuse what cannot work: files, packages, folder, disk, device, memory, database, token budgets, texts, time.

    The model and the hook have been checked when the plan was made: it reads the model's configuration.
    """
    to_build = [row for row in plan.rows if row.state == "build"]
    for stage in dict.fromkeys(row.stage for row in to_build):
        external_inputs(plan.study, stage)
    if isinstance(plan.study.sae, PretrainedSae):
        _check_pretrained(plan.study.sae, plan.shape.d_model, [row.size for row in to_build if row.stage == "sae" and row.size])
    _check_folder(store.root)
    _check_disk(store.root, plan.n_bytes)
    check_database(store.root / "analysis.duckdb")
    _check_memory(plan.memory_bytes, device)
    if any(row.stage == "corpus" for row in to_build):
        from sae_pipeline.corpus.budget import refuse_hopeless_budgets

        refuse_hopeless_budgets(plan.study.corpus)
    survey = {row.stage for row in to_build} & {stage for stage, spec in STAGES.items() if spec.in_survey}
    if survey:
        check_generation(plan.study, survey)
    if max_minutes is not None and plan.seconds > 60 * max_minutes:
        largest = max(to_build, key=lambda row: row.seconds)
        raise UserError(
            "--max-minutes", f"{plan.seconds / 60:.1f} minutes are expected, {max_minutes:g} allowed",
            f"Lower the corpus's tokens, sae.epochs or sae.sizes; the longest stage is {largest.stage}.",
        )  # fmt: skip


def _check_pretrained(sae: PretrainedSae, d_model: int, sizes: list[int]) -> None:
    """Read the files to import once: whatever is wrong with one is said before the corpus and the activations are made."""
    from sae_pipeline.formats.build import read_pretrained

    for size in sizes:
        read_pretrained(sae, size, d_model)


def _check_folder(root: Path) -> None:
    """That the study's folder is there or can be made, found out without making it: a plan writes nothing."""
    there = _nearest(root)
    if not there.is_dir():
        raise UserError(str(root), f"cannot be made ({there} is no folder)", "Run where you may write, or mend the path.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(str(there), "is not writable", "Change its permissions, or run from another folder.")


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest parent that exists."""
    return next(each for each in (path, *path.resolve().parents) if os.path.lexists(each))


def _check_disk(root: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(_nearest(root)).free
    if n_bytes * DISK_MARGIN > free:
        raise UserError(
            str(root), f"the plan needs {n_bytes * DISK_MARGIN / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free",
            "Free some space, lower the corpus's tokens, or set activations.dtype to bfloat16.",
        )  # fmt: skip


def _check_memory(n_bytes: int, device: str) -> None:
    from sae_pipeline.device import choose_device

    chosen = choose_device(device)
    if n_bytes > chosen.memory_bytes:
        raise UserError(
            chosen.name, f"the plan needs {n_bytes / 1e9:.1f} GB of memory, {chosen.memory_bytes / 1e9:.1f} GB are free",
            "Use a smaller sae.batch, fewer features in sae.sizes, or another device.",
        )  # fmt: skip


def check_database(path: Path) -> None:
    """The analysis database must be absent, or one that this project made and nobody is writing. Raises `UserError`."""
    if not path.exists():
        return
    with open_database(path) as connection:
        tables = {name for (name,) in connection.execute("select table_name from information_schema.tables").fetchall()}
    if "lineage" not in tables:
        raise UserError(str(path), "is a database of something else (no table lineage)", "Move the file away and run again.")


def open_database(path: Path) -> "duckdb.DuckDBPyConnection":
    """A read-only connection; the caller closes it. Raises `UserError` for a locked file and for one that is no database."""
    import duckdb

    try:
        return duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        if "could not set lock" in str(error).lower():
            raise UserError(str(path), "is open for writing in another program", "Close it there and run again.") from error
        raise UserError(
            str(path), "is not a DuckDB database of this version", "Move the file away; the next run writes a new one."
        ) from error
