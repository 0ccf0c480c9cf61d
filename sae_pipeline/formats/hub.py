"""Push a study's SAEs to a repository on the Hugging Face hub: SAELens files, one folder per size, and a model card.

A dry run makes the same files and shows them; it opens no connection.
"""

from dataclasses import dataclass
from pathlib import Path

from sae_pipeline.errors import UserError
from sae_pipeline.formats.export import export_sae
from sae_pipeline.formats.model_card import model_card
from sae_pipeline.formats.neuronpedia import hub_folder
from sae_pipeline.store import ArtifactStore

CARD = "README.md"


@dataclass(frozen=True)
class Upload:
    """What is or would be in the repository."""

    repository: str
    folder: Path
    files: tuple[tuple[str, int], ...]
    """(path in the repository, bytes), sorted."""


def prepare(store: ArtifactStore, sizes: list[int], repository: str, folder: Path, license: str | None = None) -> Upload:
    """Write everything that a push uploads into `folder`. Raises `UserError`."""
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise UserError("--push", f"{repository!r} is no repository id", "Write it as owner/name.")
    for size in sizes:
        export_sae(store, size, "saelens", folder / hub_folder(store.study, size))
    (folder / CARD).write_text(model_card(store, sizes, repository, license), encoding="utf-8")
    files = sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob("*") if path.is_file())
    return Upload(repository, folder, tuple(files))


def push(upload: Upload, private: bool) -> str:
    """Make the repository if it is not there, upload in one commit; returns its address. Raises `UserError`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(upload.repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=upload.repository, folder_path=upload.folder, commit_message="Sparse autoencoders with metrics")
    except LocalTokenNotFoundError as error:
        raise UserError("--push", "needs a token of the hub", "Set HF_TOKEN, or run `hf auth login`.") from error
    except (HfHubHTTPError, OSError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
        mend = "Check the id, your rights and the connection; nothing of it is visible until the one commit is complete."
        raise UserError("--push", f"{upload.repository} was not written ({first})", mend) from error
    return f"https://huggingface.co/{upload.repository}"
