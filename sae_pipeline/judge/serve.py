"""A local server that speaks the Messages API, from the optional extra `local`: the bundled model behind the real client.

It exists so that client, transport and parsing run end to end without a network. A model this small does not judge: it fails
the calibration, and its numbers stay out of every headline.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sae_pipeline.errors import UserError

HOST = "127.0.0.1"
CONTEXT_TOKENS = 4096


@dataclass(frozen=True)
class LocalServer:
    """A running server; keep the object, the server stops when it goes."""

    url: str
    model: str
    server: Any


def serve(model_file: Path, port: int, n_threads: int = 1) -> LocalServer:
    """Start serving a GGUF file on loopback. Raises `UserError` when the extra is not installed or the file is missing.

    One thread by default: on small shared machines more of them wait for each other.
    """
    if find_spec("xllamacpp") is None:
        mend = "Run `.venv/bin/pip install -c constraints.txt -e '.[local]'` in the project's folder."
        raise UserError("serve-local", "xllamacpp is not installed", mend)
    if not model_file.is_file():
        raise UserError("serve-local", f"{model_file} does not exist", "Give the path of a .gguf file.")
    xllamacpp: Any = import_module("xllamacpp")  # an optional extra: type checkers need not find it
    params = xllamacpp.CommonParams()
    params.model.path = str(model_file)
    params.hostnames = [HOST]
    params.port = port
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.cpuparams.n_threads = n_threads
    params.cpuparams_batch.n_threads = n_threads
    params.verbosity = 0
    server = xllamacpp.Server(params)
    return LocalServer(server.listening_address, model_file.stem, server)
