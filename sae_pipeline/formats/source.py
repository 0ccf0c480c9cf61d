"""Where the files of an SAE are: a folder, a file, or a repository on the Hugging Face hub."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sae_pipeline.errors import UserError

WEIGHT_SUFFIXES = (".pt", ".npz", ".safetensors")


@dataclass(frozen=True)
class Source:
    """A folder on this machine. `label` is what people called it: path, or repository and folder."""

    folder: Path
    label: str
    only: Path | None = None
    """The weights file itself, where it was named."""
    input_scale: float | None = None
    """What multiplies activations before the encoder, where the file does not hold it."""

    def file(self, name: str) -> Path:
        """A file of this SAE by its usual name."""
        return self.folder / name

    def weights(self, name: str) -> Path:
        """The weights: the file that was named, or the one of the usual name."""
        return self.only or self.folder / name


def local_source(path: str | Path, within: str = "", input_scale: float | None = None) -> Source:
    """A folder, or the weights file in it. Raises `UserError` when there is nothing."""
    place = Path(path).expanduser() / within if within else Path(path).expanduser()
    if place.is_file():
        return Source(place.parent, str(place), place, input_scale)
    if not place.is_dir():
        raise UserError(str(place), "is not there", "Give the folder that holds the SAE's files.")
    return Source(place, str(place), None, input_scale)


def hub_source(
    repository: str, revision: str | None, within: str, files: Iterable[str], input_scale: float | None = None
) -> Source:
    """Download (once; the hub's cache keeps it) the named files of `repository`. Raises `UserError` when that fails.

    `within` is a folder, or a weights file; the label says which commit it was.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    inside = PurePosixPath(within.strip("/"))
    folder = inside.parent if inside.suffix in WEIGHT_SUFFIXES else inside  # a file may be named as well as its folder
    label = f"{repository}/{within.strip('/')}".rstrip("/")
    wanted = [str(inside), *(os.path.normpath(folder / name) for name in files)]
    try:
        root = snapshot_download(repository, revision=revision, allow_patterns=wanted)
    except GatedRepoError as error:
        mend = f"Accept its licence at https://huggingface.co/{repository}, then set HF_TOKEN (or run `hf auth login`)."
        raise UserError(label, "is gated", mend) from error
    except RepositoryNotFoundError as error:
        raise UserError(label, "is no repository on the hub", "Check the id; a private one needs HF_TOKEN.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
        mend = "Check id, revision and connection; files that were downloaded elsewhere can be given as path."
        raise UserError(label, f"cannot be fetched from the hub ({first})", mend) from error
    label = label.replace(repository, f"{repository}@{Path(root).name[:12]}", 1)  # the commit that was read
    place = Path(root) / inside
    if place.is_file():
        return Source(place.parent, label, place, input_scale)
    if not place.is_dir():
        raise UserError(label, "has none of the files of this format", "Check the folder inside the repository, and the format.")
    return Source(place, label, None, input_scale)
