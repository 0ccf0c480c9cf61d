"""`serve`: the browser on a port of this machine."""

import errno
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sae_pipeline.browser.app import create_app
from sae_pipeline.browser.links import HOST, PORT
from sae_pipeline.browser.security import LOOPBACK
from sae_pipeline.errors import UserError
from sae_pipeline.study import Study

if TYPE_CHECKING:
    import uvicorn

N_PORTS = 50
GRACE_SECONDS = 3  # for requests under way when the server stops


def serve(study: Study, data_root: Path | str = "data", host: str = HOST, port: int = PORT, device: str = "cpu") -> int:
    """Serve until Ctrl-C. Takes the next free port and prints the address; away from loopback it carries a token."""
    server, listener, address = _server(study, data_root, host, port, device)
    print(f"Feature browser of study {study.name}: {address}   (Ctrl-C stops it)", flush=True)
    server.run(sockets=[listener])
    return 0


@contextmanager
def serving(study: Study, data_root: Path | str = "data", port: int = PORT, dagster: str | None = None) -> Iterator[str]:
    """Serve on loopback in a thread while the block runs; gives the address. The thread never outlives the process.

    `dagster`: address of the Dagster UI that pages link to.
    """
    server, listener, address = _server(study, data_root, HOST, port, "cpu", dagster)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="feature browser", daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(2 * GRACE_SECONDS)


def _server(
    study: Study, data_root: Path | str, host: str, port: int, device: str, dagster: str | None = None
) -> tuple["uvicorn.Server", socket.socket, str]:
    import uvicorn

    listener = listen(host, port)
    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    app = create_app(study, data_root, device, token, dagster)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/{f'?token={token}' if token else ''}"
    return uvicorn.Server(config), listener, address


def listen(host: str, port: int) -> socket.socket:
    """A socket on the first free port from `port` on. Raises `UserError` when none is free or the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, port + N_PORTS):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
        except PermissionError as error:
            listener.close()
            raise UserError("--port", f"port {candidate} is not ours to open", "Give a --port above 1023.") from error
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise UserError("--host", f"{host!r} is no address of this machine", "Use 127.0.0.1.") from error
            continue
        return listener
    raise UserError("--port", f"no free port between {port} and {port + N_PORTS - 1}", "Give another --port.")
