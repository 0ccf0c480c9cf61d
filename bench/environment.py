"""Make the peers' environments, `.bench/<name>`: `python -m bench.environment`. The same PyTorch as this interpreter's.

Our own contenders run in them too, so that all sides of a comparison share one build of PyTorch: in `trainers` with PyTorch and
NumPy alone, in `dashboards` also with Arrow, polars and pandera.
"""

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.rounds import ENVIRONMENTS


@dataclass(frozen=True)
class Environment:
    """`alone`: packages installed without what they ask for, because most of it is not needed (such as vLLM) and very large."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        """What is in it, one package a line."""
        return "\n".join([f"torch=={torch.__version__.split('+')[0]}", *self.packages, *self.alone])


WANTED = {
    "trainers": Environment(
        ("sae-lens==6.54.12", "eai-sparsify==1.3.3", "dictionary-learning==0.1.0", "numpy", "safetensors")
    ),
    "dashboards": Environment(
        (
            "sae-dashboard==0.8.0", "sae-lens==6.54.12", "orjson==3.13.0", "blobfile==3.3.0", "simple_parsing==0.1.9",
            "asyncer==0.0.18", "faiss-cpu==1.15.1", "sentence-transformers==5.7.0", "numpy==1.26.4", "pyarrow==21.0.0",
            "polars==2.1.0", "pandera[polars]==0.35.0", "pydantic==2.14.3", "pyyaml==6.0.3",
            "duckdb==2.0.0",
        ),
        alone=("eai-delphi==0.1.3",),
    ),
}  # fmt: skip


def main() -> None:
    """Create those that are not there and complete."""
    for name, environment in WANTED.items():
        folder = ENVIRONMENTS / name
        done = folder / "installed"
        if not done.is_file() or done.read_text(encoding="utf-8") != environment.wanted:
            _create(folder, environment)
            done.write_text(environment.wanted, encoding="utf-8")


def _create(folder: Path, environment: Environment) -> None:
    print(f"Installing the peers into {folder} (some minutes, once) ...", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = set(environment.alone)
    subprocess.run([*pip, "install", *(line for line in environment.wanted.splitlines() if line not in alone)], check=True)
    if environment.alone:
        subprocess.run([*pip, "install", "--no-deps", *environment.alone], check=True)
    # A peer asks for torchvision, whose build need not fit this PyTorch; then nothing that looks for it can be imported.
    subprocess.run([*pip, "uninstall", "--yes", "torchvision", "torchaudio"], check=True)


if __name__ == "__main__":
    sys.exit(main())
