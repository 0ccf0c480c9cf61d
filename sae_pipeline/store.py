"""The artefact store: one folder per stage (and size) under `data/<study>/`, published atomically, current by digest.

    data/<study>/sae/4096/            a published artefact: files and manifest.json
    data/<study>/.work/sae-4096/...   where it is built; survives a crash, so that the next build resumes

A manifest lists every file with its SHA-256, the study digest, the code version and the data versions of everything the
artefact was made from. An artefact is *fresh* when all of these still hold. No dagster here: `resources/store.py` injects it.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from sae_pipeline import progress
from sae_pipeline.artifact import MANIFEST, Built, Freshness, Manifest, Outcome
from sae_pipeline.digests import file_digest, files_digest, value_digest
from sae_pipeline.disk import disk_full_is_a_user_error
from sae_pipeline.errors import UserError
from sae_pipeline.inputs import external_inputs
from sae_pipeline.stages import STAGES, sizes_of, study_digest
from sae_pipeline.study import Study, load_study


class ArtifactStore:
    """Reads and publishes the artefacts of one study."""

    def __init__(self, study: Study, root: Path | str = "data", study_file: Path | str | None = None) -> None:
        self.study = study
        self.root = Path(root) / study.name
        self.study_file = Path(study_file) if study_file else None

    # --- reading

    def path(self, stage: str, size: int | None = None) -> Path:
        """Folder of the published artefact."""
        return self.root / stage / str(size) if size is not None else self.root / stage

    def manifest(self, stage: str, size: int | None = None) -> Manifest | None:
        """The manifest of the published artefact, None when there is none."""
        self._recover(stage, size)
        file = self.path(stage, size) / MANIFEST
        try:
            return Manifest(**json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError):
            return None  # cut short, or of another version: nothing in the folder can be trusted, so it is built again

    def require(self, stage: str, size: int | None = None) -> Path:
        """Folder of an artefact that exists and whose files are intact; `UserError` otherwise."""
        name = _name(stage, size)
        manifest = self.manifest(stage, size)
        mend = f"Run `sae-pipeline run` (or materialize {name}); what is intact is kept."
        if manifest is None:
            raise UserError(name, "is not there yet", mend)
        if broken := self._broken_file(manifest, self.path(stage, size)):
            raise UserError(str(self.path(stage, size) / broken[0]), broken[1], mend)
        return self.path(stage, size)

    def inputs(self, stage: str, size: int | None = None) -> dict[str, str | None]:
        """Data versions of everything upstream (None where missing) and digests of outside files."""
        versions: dict[str, str | None] = dict(external_inputs(self.study, stage, size))
        for name, parent, parent_size in self._parents(stage, size):
            manifest = self.manifest(parent, parent_size)
            versions[name] = manifest.data_version if manifest else None
        for parent in self.optional(stage):
            for parent_size in sizes_of(self.study, parent):
                manifest = self.manifest(parent, parent_size)
                assert manifest is not None
                versions[_name(parent, parent_size)] = manifest.data_version
        return versions

    def optional(self, stage: str) -> list[str]:
        """The optional upstream stages that are there and fresh; a stale one would be read as if it were about today's SAEs."""
        return [
            name
            for name in STAGES[stage].optional
            if all(self.freshness(name, each).state == "fresh" for each in sizes_of(self.study, name))
        ]

    def freshness(self, stage: str, size: int | None = None) -> Freshness:
        """Compare the published artefact with code, study, inputs and its own digests."""
        manifest = self.manifest(stage, size)
        if manifest is None:
            return Freshness("missing", "never built")
        if broken := self._broken_file(manifest, self.path(stage, size)):
            return Freshness("corrupt", f"{broken[0]} {broken[1]}")
        if manifest.code_version != STAGES[stage].code_version:
            return Freshness("stale", f"code version {manifest.code_version} -> {STAGES[stage].code_version}")
        if manifest.study_digest != study_digest(self.study, stage, size):
            return Freshness("stale", "the study changed")
        now = self.inputs(stage, size)
        changed = sorted(name for name in now.keys() | manifest.inputs.keys() if now.get(name) != manifest.inputs.get(name))
        if changed:
            return Freshness("stale", f"changed upstream: {', '.join(changed)}")
        if manifest.incomplete:
            return Freshness("stale", manifest.incomplete, incomplete=True)
        return Freshness("fresh")

    # --- building

    def build(self, stage: str, size: int | None, builder: Callable[[Path], Outcome], force: bool = False) -> Built:
        """Run `builder(work_folder)` and publish what it wrote, unless the artefact is fresh.

        The work folder is the same after a crash as long as study, code and inputs are the same, and it starts with the intact
        files of a damaged artefact: builders look at what is there and go on. One builder per artefact at a time.
        """
        self._study_unchanged()
        self._recover(stage, size)
        with self._lock(stage, size):
            if not force and self.freshness(stage, size).state == "fresh":
                manifest = self.manifest(stage, size)
                assert manifest is not None
                return Built(manifest, self.path(stage, size), reused=True)
            for _, parent, parent_size in self._parents(stage, size):
                self.require(parent, parent_size)
            # As they are now: what a parent becomes while this is built has not been read.
            inputs = {name: version for name, version in self.inputs(stage, size).items() if version is not None}
            work = self._work_folder(stage, size, force)
            started, clock = datetime.now(UTC), time.monotonic()
            with disk_full_is_a_user_error(work):
                outcome = builder(work)
                return self._publish(stage, size, work, outcome, inputs, started, time.monotonic() - clock)

    @contextmanager
    def also_building(self, stage: str, sizes: Iterable[int]) -> Iterator[dict[int, Path]]:
        """{size: work folder} of those `sizes` that are not fresh, while nobody else may build them.

        A builder that makes several sizes at once leaves there what their own builds will find. A size that another process
        builds just now is left out.
        """
        with ExitStack() as stack:
            folders = {}
            for size in sizes:
                try:
                    stack.enter_context(self._lock(stage, size, wait_seconds=0))
                except Timeout:
                    continue
                if self.freshness(stage, size).state != "fresh":
                    folders[size] = self._work_folder(stage, size, force=False)
            yield folders

    def _publish(
        self, stage: str, size: int | None, work: Path, outcome: Outcome, inputs: dict[str, str], started: datetime,
        seconds: float,
    ) -> Built:  # fmt: skip
        files = {str(file.relative_to(work)): file_digest(file) for file in sorted(work.rglob("*")) if file.is_file()}
        files.pop(MANIFEST, None)
        final = self.path(stage, size)
        files |= {os.path.relpath(file, final): file_digest(file) for file in outcome.also}
        manifest = Manifest(
            stage=stage, size=size, code_version=STAGES[stage].code_version, study_digest=study_digest(self.study, stage, size),
            inputs=inputs,
            files=files, data_version=outcome.data_version or files_digest(files),
            started=started.isoformat(timespec="seconds"), seconds=round(seconds, 3), metadata=outcome.metadata,
            incomplete=outcome.incomplete,
        )  # fmt: skip
        (work / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1, ensure_ascii=False), encoding="utf-8")
        for file in work.rglob("*"):
            _fsync(file)
        _fsync(work)
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = _aside(final)
        shutil.rmtree(aside, ignore_errors=True)
        # A folder cannot be replaced in one call: the old one steps aside first, and `_recover` brings it back if we die here.
        if final.exists():
            final.rename(aside)
        work.rename(final)
        _fsync(final.parent)
        shutil.rmtree(aside, ignore_errors=True)
        return Built(manifest, final, reused=False)

    def _work_folder(self, stage: str, size: int | None, force: bool) -> Path:
        key = value_digest([STAGES[stage].code_version, study_digest(self.study, stage, size), self.inputs(stage, size)])[:16]
        base = self.root / ".work" / _name(stage, size).replace("/", "-")
        work = base / key
        for other in base.glob("*"):
            if force or other != work:
                shutil.rmtree(other)
        if work.exists():
            return work
        work.mkdir(parents=True)
        manifest = self.manifest(stage, size)
        if manifest and not force and self._made_from_the_same(manifest):
            # A damaged artefact of the same inputs: what is intact need not be made again.
            for name, digest in manifest.files.items():
                file = self.path(stage, size) / name
                if not name.startswith("..") and file.is_file() and file_digest(file) == digest:
                    (work / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, work / name)
        return work

    def _made_from_the_same(self, manifest: Manifest) -> bool:
        stage, size = manifest.stage, manifest.size
        return (
            manifest.code_version == STAGES[stage].code_version
            and manifest.study_digest == study_digest(self.study, stage, size)
            and manifest.inputs == self.inputs(stage, size)
        )

    # --- helpers

    def _parents(self, stage: str, size: int | None) -> list[tuple[str, str, int | None]]:
        """(name in the manifest, stage, size) of every upstream artefact."""
        parents: list[tuple[str, str, int | None]] = []
        for parent in STAGES[stage].upstream:
            if not STAGES[parent].per_size:
                parents.append((parent, parent, None))
            elif size is not None:
                parents.append((parent, parent, size))
            else:
                parents += [(_name(parent, each), parent, each) for each in sizes_of(self.study, parent)]
        return parents

    @staticmethod
    def _broken_file(manifest: Manifest, folder: Path) -> tuple[str, str] | None:
        for name, digest in manifest.files.items():
            file = folder / name
            if not file.is_file():
                return name, "is missing"
            if file_digest(file) != digest:
                return name, "has other bytes than when it was published (digest mismatch)"
        return None

    def _recover(self, stage: str, size: int | None) -> None:
        """Bring back what stepped aside when a process died between two renames; not while one is between them."""
        final = self.path(stage, size)
        aside = _aside(final)
        if aside.exists() and not final.exists():
            with suppress(Timeout), self._lock(stage, size, wait_seconds=0):
                if not final.exists():
                    aside.rename(final)

    @contextmanager
    def _lock(self, stage: str, size: int | None, wait_seconds: float = -1):
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        name = _name(stage, size)
        lock = FileLock(folder / f"{name.replace('/', '-')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait_seconds == 0:
                raise
            progress.say(f"  {name:<26} waiting: another process builds it")
            lock.acquire(timeout=wait_seconds)
        try:
            yield
        finally:
            lock.release()

    def _study_unchanged(self) -> None:
        if self.study_file and load_study(self.study_file) != self.study:
            raise UserError(
                str(self.study_file), "was edited after this process loaded it",
                "Reload the code location in the Dagster UI, or start the command again; nothing was written.",
            )  # fmt: skip


def _name(stage: str, size: int | None) -> str:
    return stage if size is None else f"{stage}/{size}"


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
