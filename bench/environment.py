"""Make the peers' environment, `.bench/trainers`: `python -m bench.environment`. The same PyTorch as this interpreter's.

Our own contenders run in it too (with PyTorch and NumPy alone), so that all share one build of PyTorch.
"""

import subprocess
import sys
import venv

import torch

from bench.rounds import ENVIRONMENT

PACKAGES = ["sae-lens==6.54.12", "eai-sparsify==1.3.3", "dictionary-learning==0.1.0", "numpy", "safetensors"]


def main() -> None:
    """Create it unless it is there and complete."""
    done = ENVIRONMENT / "installed"
    wanted = "\n".join([f"torch=={torch.__version__.split('+')[0]}", *PACKAGES])
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return
    print(f"Installing the peers into {ENVIRONMENT} (some minutes, once) ...", flush=True)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *wanted.splitlines()], check=True)
    # A peer asks for torchvision, whose build need not fit this PyTorch; then nothing that looks for it can be imported.
    subprocess.run([*pip, "uninstall", "--yes", "torchvision"], check=True)
    done.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
